"""What attention offers at its sites beside the kernel's output: the map and what is read of it, as values not yet computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from wanlab.core import Grid, Lazy, clock
from wanlab.core.label import Label
from wanlab.nn.parts import MOMENTS, Parts, displaced, key_grid, moment_columns, places
from wanlab.nn.reads import Call

READS = ("lse", "bias", "entropy", "received", "mass", "moments")

_split: ContextVar[bool] = ContextVar("wanlab_split_keys", default=False)


@contextmanager
def split_keys() -> Iterator[None]:
    """Within the block, attention whose `mass` is captured runs its kernel once for each part of the keys, and merges.

    That costs a few percent instead of a second call; on CUDA one kernel may do it in one pass (`wanlab.nn.flush`). The output is
    exact, but rounds otherwise than an undisturbed run (about 1e-6 relative): a capture of mass then does not leave the video's
    bytes as they were. Everything else does.
    """
    token = _split.set(True)
    try:
        yield
    finally:
        _split.reset(token)


class Shape(NamedTuple):
    """How sites show a call: sizes before the heads, those of the queries' axes, and how the keys stand, where that is known."""

    lead: tuple[int, ...]
    sides: tuple[int, ...]
    axes: tuple[str, ...] = ("n",)      # of the queries
    keys: Grid | None = None


class Offer(Lazy):
    """A read of one call, with the axes (lead) k (queries) and whatever the read adds."""

    def __init__(self, call: Call, shape: Shape, last: tuple[int, ...] = ()) -> None:
        q = call.given[0]
        self.call, self.sized = call, shape
        self.shape = torch.Size([*shape.lead, q.shape[1], *shape.sides, *last])
        self.dtype, self.device = torch.float32, q.device

    def compute(self) -> Tensor:
        """All of it: b k n …, the leading axes as one."""
        raise TypeError(f"{type(self).__name__} computes nothing")

    def part(self, at: Mapping[int, Sequence[int]]) -> Tensor:
        """The whole is computed, and cut."""
        x = self.compute().reshape(self.shape)
        for axis, held in at.items():
            x = x.index_select(axis, torch.as_tensor(list(held), device=x.device))
        return x


class Pattern(Offer):
    """The map: of rows, columns and heads that are asked for, those alone are computed."""

    def __init__(self, call: Call, shape: Shape, dense: Callable[[], Tensor]) -> None:
        super().__init__(call, shape, (call.keys,))
        self._dense, self.dtype = dense, torch.promote_types(call.given[0].dtype, torch.float32)

    def whole(self) -> Tensor:
        """The dense map, with its graph."""
        return self._dense().reshape(self.shape)

    def part(self, at: Mapping[int, Sequence[int]]) -> Tensor:
        """Entries of the model's own map, not renormalised."""
        heads, last = len(self.sized.lead), self.ndim - 1
        asked = [list(at.get(axis, range(size))) for axis, size in enumerate(self.shape)]
        entries = self.call.entries(
            rows=_flat(at, range(heads + 1, last), self.shape), columns=at.get(last), heads=at.get(heads),
            batch=_flat(at, range(heads), self.shape))
        return entries.reshape([len(one) for one in asked])


def _flat(at: Mapping[int, Sequence[int]], axes: range, shape: torch.Size) -> list[int] | None:
    """Positions of several axes as those of one; None where none is limited."""
    if not any(axis in at for axis in axes):
        return None
    sizes = [shape[axis] for axis in axes]
    numbers = torch.arange(prod(sizes)).reshape(sizes)
    for i, axis in enumerate(axes):
        if axis in at:
            numbers = numbers.index_select(i, torch.as_tensor(list(at[axis])))
    return numbers.flatten().tolist()


class Lse(Offer):
    """Log-sum-exp of the logits, with their scale as a coordinate; NaN where an edit put another map in the place of theirs."""

    def __init__(self, call: Call, shape: Shape) -> None:
        super().__init__(call, shape)
        self.coords = {"scale": call.scale}

    def compute(self) -> Tensor:
        return self.call.lse if self.call.dense is None else torch.full_like(self.call.lse, torch.nan)


class Bias(Offer):
    """What is added to the logits, 0 where nothing is; size 1 along heads, queries and keys if it is the same for all of them.

    The leading axes keep their sizes: rows of a batch can be selected, and records of several batches joined, as at other sites.
    """

    def __init__(self, call: Call, shape: Shape) -> None:
        super().__init__(call, shape, (call.keys,))
        bias = call.bias
        k, n, j = (1, 1, 1) if bias is None else bias.shape[1:]
        self.shape = torch.Size([*shape.lead, k, *(shape.sides if n > 1 else [1] * len(shape.sides)), j])

    def compute(self) -> Tensor:
        return torch.zeros(self.shape, device=self.device) if self.call.bias is None else self.call.bias.float()


class Entropy(Offer):
    """Of each query's map, in nats."""

    def compute(self) -> Tensor:
        return self.call.entropy


class Received(Offer):
    """What each key gets of all queries together."""

    def __init__(self, call: Call, shape: Shape) -> None:
        super().__init__(call, shape._replace(sides=()), (call.keys,))

    def compute(self) -> Tensor:
        return self.call.received


class Mass(Offer):
    """Of each query on the parts of the keys."""

    def __init__(self, call: Call, shape: Shape, site: str | None = None) -> None:
        self.parts = Parts.of(call, site, shape.keys)
        super().__init__(call, shape, (len(self.parts.names),))
        self.labels = {"part": Label(("p",), np.array(self.parts.names))}

    def bound(self, site: str) -> Mass:
        """With the parts that the run announced for this site."""
        return Mass(self.call, self.sized, site)

    def compute(self) -> Tensor:
        groups, count = self.parts.groups(), len(self.parts.names)
        if _split.get() and self.call.dense is None and groups.ndim == 1:
            return self.call.split(groups, count)
        return self.call.mass(groups, count)


class Moments(Offer):
    """Of each query, over the keys that stand on a grid, relative to where the query stands.

    Keys that are no frames of the video (an image), or all of the query's own frame, are not apart from it in time.
    """

    def __init__(self, call: Call, shape: Shape, site: str | None = None) -> None:
        super().__init__(call, shape, (len(MOMENTS),))
        self.labels = {"moment": Label(("u",), np.array(MOMENTS))}
        self._keys, self._site = key_grid(call.keys, site, shape.keys), site

    def bound(self, site: str) -> Moments:
        """On the grid that the run announced for this site."""
        return Moments(self.call, self.sized, site)

    def compute(self) -> Tensor:
        keys, queries = places(self._keys, self.call.keys), self._queries()
        if self._keys is None or self._keys.frames == 1:
            queries[:, 1] = 0
        if self._keys is None or self._keys.height == self._keys.width == 1 < self._keys.frames:
            queries[:, 2:] = 0              # keys that are frames, at the query's own place
        return displaced(self.call.weigh(moment_columns(keys).to(self.device)), queries.to(self.device))

    def _queries(self) -> Tensor:
        axes, sides = self.sized.axes, self.sized.sides
        if axes == ("n",):
            grid_of = clock.plan().grid_of
            grid = grid_of(self._site) if grid_of is not None and self._site is not None else None
            return places(None if grid is None else grid.check(self._site or "q", self.call.rows), self.call.rows)
        length = dict(zip(axes, sides, strict=True))
        return places(Grid(*(length.get(axis, 1) for axis in "fhw")), self.call.rows)


_KINDS: dict[str, type[Offer]] = {"lse": Lse, "bias": Bias, "entropy": Entropy, "received": Received, "mass": Mass,
                                  "moments": Moments}


def offered(name: str, call: Call, shape: Shape) -> Offer:
    """The read of that name."""
    return _KINDS[name](call, shape)    # type: ignore[call-arg]
