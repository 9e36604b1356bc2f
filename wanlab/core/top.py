"""The largest values of a stream with the places where they stood: which sample, step, branch, frame, token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from wanlab.core.placed import Placed, number
from wanlab.core.stat import Moment, axes_named, wide

ORDERS = ("largest", "smallest", "magnitude")


def _order(text: str) -> str:
    if text not in ORDERS:
        raise ValueError(f"expected {', '.join(ORDERS)}")
    return text


class TopStat(Placed):
    """The `k` largest values (or `smallest`, or largest in `magnitude`) of all, or for each position of the axes `per`.

    Labels of the axis `rank` say where each stood: s, branch, seed of the sample (where announced), and the position on
    every axis that is not kept apart. Equal values rank by place, so that a merge of parts equals the whole in any order.
    """

    name, STATE = "topk", ("_values", "_places")
    OPTIONS: ClassVar = {"k": number, "per": axes_named, "order": _order}

    def __init__(self, source: Sequence[str], k: int = 10, per: Sequence[str] = (), order: str = "largest") -> None:
        super().__init__(source, per)
        self.k, self.order = k, order
        self._values = torch.zeros(0, dtype=torch.float64)                      # per..., rank

    def options(self) -> dict[str, Any]:
        mine = {"k": self.k} if self.k != 10 else {}
        return mine | super().options() | ({} if self.order == "largest" else {"order": self.order})

    def _add(self, x: Tensor, at: Moment) -> None:
        self._finite(x)
        apart = self._apart(x)
        flat = apart.reshape(-1, apart.shape[-1])
        flat = flat if flat.is_floating_point() else wide(flat)         # whole numbers wrap around at a change of sign
        kept = _first_of(self._key(flat), min(self.k, flat.shape[-1]))
        values = flat.gather(-1, kept).cpu().to(torch.float64).reshape(*apart.shape[:-1], -1)
        sizes = [x.shape[self.source.index(axis)] for axis in self._pooled]
        places = self._placed(kept.cpu().numpy(), sizes, at)
        self._take(values, torch.from_numpy(places).reshape(*values.shape, -1), apart.shape[-1])

    def _merge(self, other: Self) -> None:
        places = self._places_of(other)
        self._take(other._values, places, other.count)

    def _take(self, values: Tensor, places: Tensor, count: int) -> None:
        if self.count:
            self._fits(values.shape[:-1], self._values.shape[:-1])
            values, places = torch.cat([self._values, values], -1), torch.cat([self._places, places], -2)
        keys = [*places.movedim(-1, 0).flip(0).numpy(), -self._key(values).numpy()]
        best = torch.from_numpy(np.lexsort(keys, axis=-1))[..., :self.k]
        self._values = values.gather(-1, best)
        self._places = places.gather(-2, best.unsqueeze(-1).expand(*best.shape, places.shape[-1]))
        self.count += count

    def _key(self, x: Tensor) -> Tensor:
        return {"largest": x, "smallest": -x, "magnitude": x.abs()}[self.order]

    @property
    def value(self) -> Tensor:
        """The values, float32, best first."""
        self._some()
        return self._values.float()

    def forecast(self, sizes: Mapping[str, int]) -> int:
        return 8 * prod(sizes[axis] for axis in self.per) * self.k * (4 + len(self._pooled))


def _first_of(key: Tensor, k: int) -> Tensor:
    """Positions of the `k` largest of each row; of equal ones at the edge, the first. Ascending."""
    edge = key.topk(k, -1).values[:, -1:]
    above, level = key > edge, key == edge
    room = k - above.sum(-1, keepdim=True)
    if not (level.sum(-1, keepdim=True) == room).all():
        level = level & (level.cumsum(-1) <= room)
    return (above | level).nonzero()[:, 1].reshape(len(key), k)
