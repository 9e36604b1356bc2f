"""Products cell by cell: on a CPU, what cells compute as rows of one batch has the bytes of each by itself.

Kernels of matrix products and convolutions sum in another order for another number of rows. While several cells run as one
batch, these operations alone run once for each cell, on its rows, and what they give is joined; all else is one call on all
rows, edits and captures included. Cutting a product along the first axis changes nothing but the rounding, whatever that axis
is; it gives the bytes of a cell by itself where rows come first (b, or b f), as they do throughout the house.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode


def cell_by_cell(device: torch.device, cells: int, rows: int) -> AbstractContextManager[Any]:
    """A context in which the products of `cells` cells, of equally many of the `rows` each, run one cell after the other.

    On a GPU nothing changes: there a batch is for speed, and kernels round as they do.
    """
    return CellByCell(cells, rows) if cells > 1 and device.type == "cpu" else nullcontext()


class CellByCell(TorchFunctionMode):
    """See `cell_by_cell`."""

    def __init__(self, cells: int, rows: int) -> None:
        super().__init__()
        self.cells, self.rows = cells, rows

    def __torch_function__(self, function: Any, types: Any, given: Sequence[Any] = (), named: dict[str, Any] | None = None) -> Any:
        """The function's result; of a product of rows in parts."""
        named = named or {}
        places = [place for place in PRODUCTS[function](given) if self._has_rows(given[place])] if function in PRODUCTS else []
        if not places:
            return function(*given, **named)
        parts = {place: given[place].chunk(self.cells) for place in places}
        return torch.cat([function(*(parts[place][cell] if place in parts else one for place, one in enumerate(given)), **named)
                          for cell in range(self.cells)])

    def _has_rows(self, x: Tensor) -> bool:
        return len(x) > 0 and len(x) % self.rows == 0


def _of_layer(given: Sequence[Any]) -> Sequence[int]:
    """What goes into a layer; its weights have no rows."""
    return (0,)


def _of_matmul(given: Sequence[Any]) -> Sequence[int]:
    """The batch, on both sides where both have one; of two matrices the rows of the left one."""
    left, right = given[0].ndim, given[1].ndim
    if max(left, right) < 3:
        return (0,) if left == 2 else ()
    return (0, 1) if left == right else (0,) if left > right else (1,)


# By function, the places of those of its arguments that are cut together. Left out is what rounds the same for any number of rows:
# attention, batched products within einsum, pooling, look-ups, norms, whatever works on each number by itself.
PRODUCTS: dict[Any, Callable[[Sequence[Any]], Sequence[int]]] = {
    **dict.fromkeys((F.linear, F.conv1d, F.conv2d, F.conv3d), _of_layer),
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__), _of_matmul),
}
