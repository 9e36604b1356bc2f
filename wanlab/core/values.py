"""Edits of values: Identity, Zero, Mean, Resample, Noise, Scale, Steer, Patch, Bypass, Replace."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from wanlab.core.clock import Plan
from wanlab.core.edit import Edit, EditError, Event, NotSerialisable
from wanlab.core.entry import Entry
from wanlab.core.region import moments, region
from wanlab.core.seeding import generator
from wanlab.core.site import Site
from wanlab.core.source import Source

KEPT = ("b", "c", "d", "k")     # what Mean keeps apart unless told otherwise: samples and features


@dataclass(frozen=True)
class Identity(Edit):
    """Changes nothing: the bytes that come in go out. For tests of the instrument."""

    kind = "identity"
    reads_seeds = False
    inert = True

    def change(self, x: Tensor, event: Event) -> Tensor:
        return x


@dataclass(frozen=True)
class Zero(Edit):
    """Zeros."""

    kind = "zero"
    reads_seeds = False

    def change(self, x: Tensor, event: Event) -> Tensor:
        return torch.zeros_like(x)


@dataclass(frozen=True)
class Scale(Edit):
    """The value times `factor`."""

    kind = "scale"
    reads_seeds = False
    demands = ("factor",)
    factor: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "factor", _number(self.factor, "scale: factor"))

    def change(self, x: Tensor, event: Event) -> Tensor:
        return x * self.factor


@dataclass(frozen=True)
class Mean(Edit):
    """The mean of the site's own tensor over the axes `over`, or of a record of reference samples.

    `over` by default is every axis but samples and features (b c d k), so that a sample does not depend on its batch;
    `over="b"` is the mean of the batch, and does. A reference holds the site under the same name; where it was
    recorded by step or branch, the same step and branch are taken.
    """

    kind = "mean"
    reads_seeds = False
    over: str | None = None
    reference: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.over is not None and self.reference is not None:
            raise EditError("mean: give over= (the tensor's own mean) or reference= (a record's), not both")
        if self.over is not None:
            object.__setattr__(self, "over", " ".join(str(self.over).split()))
        object.__setattr__(self, "reference", Source.of(self.reference))

    @property
    def mixes_rows(self) -> bool:
        return self.over is not None and "b" in self.over.split()

    def check(self, site: Site) -> None:
        super().check(site)
        if self.reference is None:
            self._over(site)
        else:
            self.reference.check(site.name, site, self.where)

    def check_run(self, site: Site, plan: Plan) -> None:
        if self.reference is not None:
            self.reference.check_moments(site.name, moments(self.where, site, plan))

    def change(self, x: Tensor, event: Event) -> Tensor:
        if self.reference is not None:
            entry: Entry = self.reference.at(event.site.name, event.tick).mean_over_rows()
            return entry.like(x, event.site, partial(region, self.where, event.site, x, event.plan)).expand_as(x)
        at = [event.site.axes.index(letter) for letter in self._over(event.site)]
        return x.mean(at, keepdim=True).expand_as(x)

    def _over(self, site: Site) -> list[str]:
        asked = self.over.split() if self.over else [letter for letter in site.axes if letter not in KEPT]
        missing = [letter for letter in asked if letter not in site.axes]
        if missing or not asked:
            raise EditError(f"mean over {' '.join(missing) or 'nothing'} at {site.name}, which has axes "
                            f"'{' '.join(site.axes)}': name axes with over=, or give reference=")
        return asked


@dataclass(frozen=True)
class Resample(Edit):
    """The values of other samples: of the other rows of the batch by a seeded permutation, or of rows of a record.

    A permutation moves every row, and needs at least two; a sample's result then depends on its batch. With `reference`
    the row is drawn by (seed, seed of the sample) and does not.
    """

    kind = "resample"
    needs = ("b",)
    seed: int = 0
    reference: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "reference", Source.of(self.reference))

    @property
    def mixes_rows(self) -> bool:
        return self.reference is None

    @property
    def reads_seeds(self) -> bool:
        return self.reference is not None

    def check(self, site: Site) -> None:
        super().check(site)
        if self.reference is not None:
            self._samples(site)
            self.reference.check(site.name, site, self.where)

    def check_run(self, site: Site, plan: Plan) -> None:
        if self.reference is not None:
            self.reference.check_moments(site.name, moments(self.where, site, plan))
        elif plan.seeds is not None:
            other_rows(len(plan.seeds), self.seed)

    def _samples(self, site: Site) -> None:
        entry = self.reference.record.entry(self.reference.record.find(site.name)[0])
        if "b" not in entry.axes:
            raise EditError(f"resample: the record of {site.name} holds no single samples (axes {' '.join(entry.axes)})")

    def change(self, x: Tensor, event: Event) -> Tensor:
        at = event.axis("b", self)
        rows = x.shape[at]
        if self.reference is None:
            return x.index_select(at, torch.tensor(other_rows(rows, self.seed), device=x.device))
        entry: Entry = self.reference.at(event.site.name, event.tick)
        stored = entry.tensor.shape[entry.axes.index("b")]
        drawn = [int(torch.randint(stored, (), generator=generator("resample", self.seed, event.seed(row))))
                 for row in range(rows)]
        picked = entry.tensor.index_select(entry.axes.index("b"), torch.tensor(drawn))
        part = partial(region, self.where, event.site, x, event.plan)
        return replace(entry, tensor=picked).like(x, event.site, part)


def other_rows(rows: int, seed: int) -> list[int]:
    """A seeded permutation of rows in which none stays where it is: one cycle through all. EditError for fewer than two."""
    if rows < 2:
        raise EditError("resample needs other samples: a batch of two or more, or reference= a record of some")
    order = torch.randperm(rows, generator=generator("resample", seed, rows)).tolist()
    target = dict(zip(order, order[1:] + order[:1], strict=True))
    return [target[row] for row in range(rows)]


@dataclass(frozen=True)
class Noise(Edit):
    """The value plus normal noise of `std` times the site's own standard deviation (that of each sample by itself).

    Drawn on the CPU by (seed, seed of the sample, step, site): equal in any batch, in both branches, on any device.
    """

    kind = "noise"
    std: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "std", _number(self.std, "noise: std"))
        if self.std < 0:
            raise EditError(f"noise: std={self.std} is negative")

    def change(self, x: Tensor, event: Event) -> Tensor:
        at = event.site.axes.index("b") if "b" in event.site.axes else None
        rows = [x] if at is None else list(x.unbind(at))
        noisy = [row + self._draw(row, event, i) * (self.std * _spread(row)).to(row) for i, row in enumerate(rows)]
        return noisy[0] if at is None else torch.stack(noisy, at)

    def _draw(self, row: Tensor, event: Event, i: int) -> Tensor:
        source = generator("noise", self.seed, event.seed(i), event.tick.step, event.site.name)
        return torch.randn(row.shape, generator=source).to(row)


@dataclass(frozen=True)
class Steer(Edit):
    """The value plus `strength` times `direction`, a vector along the channels (axis c, else d).

    EditError at a site without channels, or with another number of them.
    """

    kind = "steer"
    reads_seeds = False
    direction: Any = ()
    strength: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        values = self.direction.tolist() if hasattr(self.direction, "tolist") else self.direction
        if not isinstance(values, (list, tuple)) or not values:
            raise EditError("steer: direction= is a vector, one number for each channel")
        object.__setattr__(self, "direction", tuple(_number(value, "steer: direction") for value in values))
        object.__setattr__(self, "strength", _number(self.strength, "steer: strength"))

    def check(self, site: Site) -> None:
        super().check(site)
        if not {"c", "d"} & set(site.axes):
            raise EditError(f"steer needs channels (axis c or d), but {site.name} has axes '{' '.join(site.axes)}'")
        size = site.size("c" if "c" in site.axes else "d")
        if size not in (None, len(self.direction)):
            raise EditError(f"steer: the direction has {len(self.direction)} numbers, {site.name} {size} channels")

    def change(self, x: Tensor, event: Event) -> Tensor:
        at = event.site.axes.index("c" if "c" in event.site.axes else "d")
        if x.shape[at] != len(self.direction):
            raise EditError(f"steer: the direction has {len(self.direction)} numbers, {event.site.name} "
                            f"{x.shape[at]} channels")
        direction = torch.tensor(self.direction, dtype=x.dtype, device=x.device)
        return x + self.strength * direction.reshape([-1 if i == at else 1 for i in range(x.ndim)])


@dataclass(frozen=True)
class Patch(Edit):
    """The value that a record holds for this site, step and branch; `entry` names another site of the record.

    A record of one sample goes to all rows; otherwise row r comes from row r. With `share` the value goes only that part of the
    way to the record's: 0 is the value itself, 1 (the default) the record's.
    """

    kind = "patch"
    reads_seeds = False
    record: Any = None
    entry: str | None = None
    share: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.record is None:
            raise EditError("patch: record= is missing (a Record, or the path of a saved one)")
        object.__setattr__(self, "share", _number(self.share, "patch: share"))
        object.__setattr__(self, "record", Source.of(self.record))

    @property
    def mixes_rows(self) -> bool:
        return not self.record.one_sample

    def check(self, site: Site) -> None:
        super().check(site)
        self.record.check(self.entry or site.name, site, self.where)

    def check_run(self, site: Site, plan: Plan) -> None:
        name = self.entry or site.name
        self.record.check_moments(name, moments(self.where, site, plan))
        if plan.seeds is not None:
            self.record.check_rows(name, site, len(plan.seeds))

    def change(self, x: Tensor, event: Event) -> Tensor:
        entry = self.record.at(self.entry or event.site.name, event.tick)
        there = entry.like(x, event.site, partial(region, self.where, event.site, x, event.plan)).expand_as(x)
        return there if self.share == 1 else torch.lerp(x, there.to(x), self.share)


@dataclass(frozen=True)
class Bypass(Edit):
    """What stands at the site when its block is left out, as the block itself states it. EditError where it states none."""

    kind = "bypass"
    reads_seeds = False

    def check(self, site: Site) -> None:
        super().check(site)
        if site.bypass is False:
            raise EditError(f"{site.name} cannot be bypassed: its module states no identity for it; use zero, or bypass "
                            "the end of its block")

    def change(self, x: Tensor, event: Event) -> Tensor:
        if event.identity is None:
            raise EditError(f"{event.site.name} cannot be bypassed: its module states no identity for it")
        identity = event.identity() if callable(event.identity) else event.identity
        return identity.clone()     # a copy: the model may go on to write to what it is given


@dataclass(frozen=True)
class Replace(Edit):
    """What a Python function makes of a copy of the value. It cannot be written to a file: NotSerialisable says so."""

    kind = "replace"
    reads_seeds = False
    function: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not callable(self.function):
            raise EditError(f"replace: function={self.function!r} is not a function from tensor to tensor")

    @property
    def mixes_rows(self) -> bool:
        return True         # nobody knows

    def change(self, x: Tensor, event: Event) -> Tensor:
        return self.function(x.clone())     # type: ignore[misc]  # a field, and no method

    def parameters(self) -> dict[str, Any]:
        raise NotSerialisable(f"replace at {self.where}: a Python function cannot be written down; make it a kind of "
                              "edit (a subclass of Edit) to put it into a study")

    def _told(self) -> dict[str, Any]:
        return {"function": self.function}


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise EditError(f"{what}={value!r} is not a finite number")
    return float(value)


def _spread(row: Tensor) -> Tensor:
    return row.float().std(correction=0)

