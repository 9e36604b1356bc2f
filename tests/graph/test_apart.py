"""Products cell by cell: the rows of each cell have the bytes that they have by themselves, and all else is one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from wanlab.graph.apart import PRODUCTS, cell_by_cell

CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


W, B, K2, K3 = random(48, 64), random(48), random(32, 24, 1, 1), random(8, 4, 2, 2, 2)
EACH = {  # a function of the rows of a batch, and the shape of a row
    "linear": (lambda x: F.linear(x, W, B), (64,)),
    "linear of tokens": (lambda x: F.linear(x, W), (7, 64)),
    "frames before rows' channels": (lambda x: F.linear(x.flatten(0, 1), W, B), (3, 64)),
    "conv1d": (lambda x: F.conv1d(x, K2[..., 0]), (24, 9)),
    "conv2d of 1x1": (lambda x: F.conv2d(x, K2), (24, 8, 8)),
    "conv2d as a module": (nn.Conv2d(24, 16, 3, padding=1).requires_grad_(False), (24, 12, 12)),
    "conv3d": (lambda x: F.conv3d(x, K3, padding=1), (4, 3, 6, 6)),
    "rows @ matrix": (lambda x: x @ W.mT, (64,)),
    "batch @ matrix": (lambda x: torch.matmul(x, W.mT), (5, 64)),
    "matrix @ batch": (lambda x: W @ x, (64, 5)),
    "batch @ batch": (lambda x: x @ x.mT, (6, 64)),
    "places @ moved": (lambda x: random(50, 3, seed=1) @ x.flatten(0, 1).mT, (8, 2, 3)),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), (4, 9, 16)),
}


@pytest.mark.parametrize("cells", [2, 3, 4])
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("name", EACH)
def test_each_cell_has_its_own_bytes(name: str, rows: int, cells: int) -> None:
    function, shape = EACH[name]
    x = random(rows * cells, *shape)
    with cell_by_cell(CPU, cells, rows * cells):
        together = function(x)
    assert torch.equal(together, torch.cat([function(part) for part in x.split(rows)]))


class Calls(TorchFunctionMode):
    """Notes what is called on how many rows."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Any, int]] = []

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if args and isinstance(args[0], Tensor) and args[0].ndim:
            self.made.append((function, len(args[0])))
        return function(*args, **(kwargs or {}))


def rows_of(function: Callable[[], Any], device: torch.device = CPU, cells: int = 3, rows: int = 6) -> list[int]:
    with Calls() as calls, cell_by_cell(device, cells, rows):
        function()
    return [rows for made, rows in calls.made if made in PRODUCTS]


def test_products_run_once_a_cell_and_nothing_else_does() -> None:
    x = random(6, 64)
    assert rows_of(lambda: F.linear(x, W)) == [2, 2, 2]
    with Calls() as calls, cell_by_cell(CPU, 3, 6):
        torch.softmax(F.silu(x), 1)
    assert [rows for _, rows in calls.made] == [6, 6]


@pytest.mark.parametrize(("x", "of", "rows"), [
    (random(6, 64), {"device": torch.device("cuda")}, [6]),         # there a batch is for speed
    (random(6, 64), {"cells": 1}, [6]),
    (random(7, 64), {}, [7]),                                       # these are no rows
    (random(64), {}, [64]),
    (random(0, 64), {}, [0]),
])  # fmt: skip
def test_what_runs_as_one(x: Tensor, of: dict[str, Any], rows: list[int]) -> None:
    assert rows_of(lambda: F.linear(x, W), **of) == rows


def test_nothing_is_left_behind() -> None:
    with pytest.raises(KeyError), cell_by_cell(CPU, 3, 6):
        raise KeyError
    assert rows_of(lambda: F.linear(random(6, 64), W), cells=1) == [6]
