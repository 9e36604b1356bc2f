"""Values that a site offers without having computed them: shape first, and then the part that somebody wants.

    class Pairs(Hookable):
        SITES, DERIVED = {"product": "b n j"}, ("product",)
        def forward(self, x, y):
            if self.listening("product"):
                self.site("product", Product(x, y))     # a Lazy: whoever wants rows 3 and 5 has those two computed
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from wanlab.core.label import Label


class Lazy(ABC):
    """A value at a site that is computed for those who want it, and the part that they want alone.

    An edit there has the whole computed, and gives a tensor; so does a gradient. A dry run reads the shape and computes
    nothing. `coords` and `labels` go to the entries of a record: one value for what is no axis, further names of positions.
    """

    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    coords: Mapping[str, Any] = {}
    labels: Mapping[str, Label] = {}
    requires_grad: ClassVar[bool] = False

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def itemsize(self) -> int:
        """Bytes of one value."""
        return torch.empty((), dtype=self.dtype).element_size()

    def bound(self, site: str) -> Lazy:
        """The value as it is at the site of that full name: one that depends on what a run announced of it takes another shape."""
        return self

    @abstractmethod
    def part(self, at: Mapping[int, Sequence[int]]) -> Tensor:
        """The values at some positions of some axes (by number); without graph."""

    def whole(self) -> Tensor:
        """All values; where they are part of what is differentiated, with their graph."""
        return self.part({})
