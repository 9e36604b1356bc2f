"""A random sample of the feature rows of a stream, with the places where they stood."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from wanlab.core.placed import Placed, number
from wanlab.core.seeding import generator
from wanlab.core.stat import Moment, StatisticError, axes_named


class SampleStat(Placed):
    """`k` feature rows (vectors along axis c, else d) of all that pass, none twice, or for each position of the axes `per`.

    Every row of values draws a number by (seed, sample, step, branch, position), and the k lowest stay (bottom-k sampling, Cohen &
    Kaplan 2007): each row is as likely to be kept as any other, what is kept depends neither on batches nor on their order, and
    parts merge into the whole. The sample is the row of the run's batch plus `first`: where several runs make one stream, the
    number of the rows that came before.
    """

    name, STATE = "sample", ("_values", "_places", "_draws")
    OPTIONS: ClassVar = {"k": number, "per": axes_named, "seed": int, "first": int}

    def __init__(self, source: Sequence[str], k: int = 64, per: Sequence[str] = (), seed: int = 0, first: int = 0) -> None:
        feature = next((axis for axis in ("c", "d") if axis in source), None)
        if feature is None or feature in per:
            raise StatisticError(f"a sample needs features (axis c or d), but the axes are '{' '.join(source)}'" if feature is None
                                 else f"a sample keeps whole rows of features: {feature} cannot be kept apart")
        super().__init__(source, per, last=[feature])
        self.k, self.seed, self.first, self._feature = k, seed, first, feature
        self._values = torch.zeros(0)                           # per..., rank, feature
        self._draws = torch.zeros(0, dtype=torch.float64)       # per..., rank

    def options(self) -> dict[str, Any]:
        told = {"k": (self.k, 64), "seed": (self.seed, 0), "first": (self.first, 0)}
        return {name: value for name, (value, usual) in told.items() if value != usual} | super().options()

    def _add(self, x: Tensor, at: Moment) -> None:
        self._finite(x)
        apart = self._apart(x, last=[self._feature])                                        # per..., pooled, feature
        flat = apart.reshape(-1, *apart.shape[-2:])
        draws = self._apart_draws(x, at).reshape(len(flat), -1)
        least, kept = draws.topk(min(self.k, draws.shape[-1]), largest=False)
        rows = flat.take_along_dim(kept[..., None].to(x.device), 1).cpu().float()
        sizes = [x.shape[self.source.index(axis)] for axis in self._pooled]
        places, lead = torch.from_numpy(self._placed(kept.numpy(), sizes, at)), apart.shape[:-2]
        self._take(rows.reshape(*lead, *rows.shape[1:]), places.reshape(*lead, *places.shape[1:]), least.reshape(*lead, -1),
                   draws.shape[-1])

    def _apart_draws(self, x: Tensor, at: Moment) -> Tensor:
        """A number in [0, 1) for each row of values, those of each sample from a source of their own; (per..., pooled)."""
        axes = [axis for axis in self.source if axis != self._feature]
        sizes = [x.shape[self.source.index(axis)] for axis in axes]
        samples = at.coords.get("b", range(sizes[axes.index("b")])) if "b" in axes else [0]
        rest = [size for axis, size in zip(axes, sizes, strict=True) if axis != "b"]
        drawn = torch.stack([torch.rand(rest, dtype=torch.float64, generator=generator(
            "sample", self.seed, self.first + sample, at.tick.step, at.tick.branch)) for sample in samples])
        drawn = drawn.movedim(0, axes.index("b")) if "b" in axes else drawn[0]
        order = [axes.index(axis) for axis in (*self.per, *self._pooled)]
        return drawn.permute(order).flatten(len(self.per)) if self._pooled else drawn.permute(order).unsqueeze(-1)

    def _merge(self, other: Self) -> None:
        places = self._places_of(other)
        self._take(other._values, places, other._draws, other.count)

    def _take(self, values: Tensor, places: Tensor, draws: Tensor, count: int) -> None:
        if self.count:
            self._fits(torch.Size([*values.shape[:-2], values.shape[-1]]), torch.Size([*self._values.shape[:-2],
                                                                                       self._values.shape[-1]]))
            values, draws = torch.cat([self._values, values], -2), torch.cat([self._draws, draws], -1)
            places = torch.cat([self._places, places], -2)
        keys = [*places.movedim(-1, 0).flip(0).numpy(), draws.numpy()]
        kept = torch.from_numpy(np.lexsort(keys, axis=-1))[..., :self.k]
        self._values = values.take_along_dim(kept[..., None], -2)
        self._places, self._draws = places.take_along_dim(kept[..., None], -2), draws.take_along_dim(kept, -1)
        self.count += count

    @property
    def value(self) -> Tensor:
        """The rows, float32, in the order in which they were drawn."""
        self._some()
        return self._values

    def forecast(self, sizes: Mapping[str, int]) -> int:
        return prod(sizes[axis] for axis in self.per) * self.k * (4 * sizes[self._feature] + 8 * (4 + len(self._pooled)))
