"""Edits as plain data: a kind, a selection, parameters. Equal edits have equal dictionaries and equal hashes.

A kind is a frozen dataclass with a `change`; its fields after the selection are its parameters:

    @dataclass(frozen=True)
    class Scale(Edit):
        kind = "scale"
        factor: float = 1.0
        def change(self, x, event): return x * self.factor
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from torch import Tensor

from wanlab.core.clock import Plan, Tick
from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted
from wanlab.core.region import region
from wanlab.core.select import Limits, Select
from wanlab.core.site import Site

KINDS: dict[str, type[Edit]] = {}


class EditError(ValueError):
    """An edit that cannot be read, or that does not fit the tensor it meets."""


class NotSerialisable(EditError):
    """An edit that lives in this process only (a Python function, a record that was never saved)."""


@dataclass(frozen=True)
class Event:
    """What an edit may know about the tensor it changes: where, when, and what a bypass would put there."""

    site: Site
    tick: Tick
    plan: Plan
    identity: Tensor | Callable[[], Tensor] | None = None

    def axis(self, letter: str, edit: Edit) -> int:
        """The place of an axis; EditError, naming the site's axes, where it has none."""
        if letter not in self.site.axes:
            raise EditError(f"{edit.kind} needs an axis {letter}, but {self.site.name} has axes "
                            f"'{' '.join(self.site.axes)}'")
        return self.site.axes.index(letter)

    def seed(self, row: int) -> int:
        """The seed of a row's sample: as announced, else the number of the row. EditError for a row beyond those announced."""
        if self.plan.seeds is None:
            return row
        if row >= len(self.plan.seeds):
            raise EditError(f"{self.site.name} fires with row {row}, but {len(self.plan.seeds)} seeds are announced")
        return self.plan.seeds[row]


@dataclass(frozen=True)
class Edit(Limits):
    """Base of all kinds. `at` is a glob or a whole selection in one string; the keywords are those of `Select`."""

    kind: ClassVar[str] = ""
    needs: ClassVar[tuple[str, ...]] = ()       # axes without which the kind means nothing
    inert: ClassVar[bool] = False               # whether it changes nothing
    demands: ClassVar[tuple[str, ...]] = ()     # parameters without which it changes nothing: data of it has to say them

    where: Select = field(init=False, repr=False, compare=False)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__repr__" not in vars(cls):
            cls.__repr__ = Edit.__repr__        # type: ignore[method-assign]   # dataclass would make one with every None
        if vars(cls).get("kind"):
            _demand_free(cls)
            KINDS[cls.kind] = cls

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind and "kind" not in vars(type(self)):
            raise EditError(f"{type(self).__name__} has no kind of its own, by which it is written and read: kind = \"...\"")
        object.__setattr__(self, "where", Select(self.at, **self.limits))

    def change(self, x: Tensor, event: Event) -> Tensor:
        """What stands at the site instead of `x`, everywhere; `apply` keeps the selected part. Never writes to `x`.

        Both have the axes of `event.site` and one shape. TypeError from a kind that defines no change.
        """
        raise TypeError(f"{type(self).__name__} is not a kind of edit: it defines no change")

    @property
    def mixes_rows(self) -> bool:
        """Whether what a row becomes depends on the other rows of its batch, or on its place among them. A kind of yours for which
        this is so says so: its cells are then never joined with others to one batch."""
        return False

    @property
    def reads_seeds(self) -> bool:
        """Whether what a row becomes may depend on the seed of its sample (`Event.seed`), so that what it makes of a prompt under
        one seed is of no use under another. A kind of yours for which this is not so may say so: its cells then share more."""
        return True

    def check(self, site: Site) -> None:
        """Raises EditError where this kind can mean nothing at `site`; called before anything runs."""
        if site.derived and not self.inert:
            raise EditError(f"{site.name} is derived and can only be recorded: nothing is computed from it")
        for letter in self.needs:
            if letter not in site.axes:
                raise EditError(f"{self.kind} needs an axis {letter}, but {site.name} has axes "
                                f"'{' '.join(site.axes)}'")

    def check_run(self, site: Site, plan: Plan) -> None:
        """Whether it can do at `site` what it is asked in the run that `plan` announces; called before that runs."""

    def apply(self, x: Tensor, event: Event) -> Tensor:
        """The edited tensor: `change` where the selection reaches, `x` bit for bit elsewhere. `x` is not written to.

        Both have the axes of `event.site` and one shape. EditError where `change` writes to what it is given, or gives another.
        """
        part = region(self.where, event.site, x, event.plan)
        shown = x.clone() if x.is_inference() else x        # inference tensors do not count writes
        version = None if x.is_inference() else x._version
        y = self.change(shown, event)
        if version is not None and x._version != version:
            raise EditError(f"{self.kind} wrote to the tensor at {event.site.name}: change must return another one")
        if y is shown and (shown is x or torch.equal(shown, x)):
            return x
        if not isinstance(y, Tensor) or y.shape != x.shape:
            got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
            raise EditError(f"{self.kind} at {event.site.name} gives {got}, but the site's shape is {tuple(x.shape)}")
        y = y.to(x)
        return _laid_out(y if part is None else torch.where(part, y, x), x)

    def parameters(self) -> dict[str, Any]:
        """The kind's own fields that differ from their defaults."""
        base = {one.name for one in fields(Edit)}
        mine = [one for one in fields(self) if one.init and one.name not in base]
        return {one.name: getattr(self, one.name) for one in mine if getattr(self, one.name) != one.default}

    def _told(self) -> dict[str, Any]:
        """The parameters as shown to people."""
        return self.parameters()

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML or JSON: kind, at, limits, parameters; `edit_from_dict` reads it back."""
        said = {key: getattr(self, key) for key in self.demands} | self.parameters()
        parameters = {key: _plain(value) for key, value in said.items()}
        return {"kind": self.kind, **self.where.to_dict(), **parameters}

    @property
    def hash(self) -> str:
        """sha256 of the edit's content, the same in every process and on every machine; of records by their bytes."""
        content = {"kind": self.kind, **self.where.content(), **self.parameters()}
        text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"),
                          default=lambda value: value.sha256)
        return hashlib.sha256(text.encode()).hexdigest()

    def __str__(self) -> str:
        return f"{self.kind}({', '.join([str(self.where), *(f'{key}={_short(value)}' for key, value in self._told().items())])})"

    def __repr__(self) -> str:
        """What one would type to get this edit."""
        told = [f"{key}={getattr(value, '__name__', None) or repr(value)}" for key, value in self._told().items()]
        return f"{type(self).__name__}({', '.join([repr(self.at), *self._typed(), *told])})"


def edit_from_dict(data: Mapping[str, Any]) -> Edit:
    """The edit that `Edit.to_dict` described. EditError, with the nearest right names, for unknown kinds and keys."""
    if not isinstance(data, Mapping):
        raise EditError(f"an edit is a mapping with kind and at, not {quoted(data)}")
    rest = dict(data)
    kind = rest.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise EditError(f"no kind of edit {quoted(kind)}{suggestion(str(kind), KINDS)} (all: {', '.join(sorted(KINDS))})")
    known = [one.name for one in fields(KINDS[kind]) if one.init]
    for key in rest:
        if key not in known:
            raise EditError(f"an edit of kind {kind!r} has no {quoted(key)}{suggestion(str(key), known)}")
    if "at" not in rest:
        raise EditError(f"the edit of kind {kind!r} names no site (at:)")
    if missing := [key for key in KINDS[kind].demands if key not in rest]:
        raise EditError(f"an edit of kind {kind!r} changes nothing without {' and '.join(missing)}: say it, as in "
                        f"{kind}[{missing[0]}=0.5]:SITE, or {{kind: {kind}, at: ..., {missing[0]}: 0.5}} in a study")
    return KINDS[kind](**rest)


def _demand_free(kind: type[Edit]) -> None:
    """EditError where another class has the kind; the same class may be defined again, as a notebook's cell does."""
    there = KINDS.get(kind.kind)
    if there is not None and (there.__module__, there.__qualname__) != (kind.__module__, kind.__qualname__):
        raise EditError(f"{kind.__qualname__}: the kind {kind.kind!r} is that of {there.__module__}.{there.__qualname__}; "
                        "name yours otherwise")


def _plain(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    return [_plain(one) for one in value] if isinstance(value, (list, tuple)) else value


def _short(value: Any) -> str:
    """A parameter as a line of a ledger shows it."""
    if isinstance(value, tuple) and len(value) > 4:
        return f"({', '.join(map(str, value[:3]))}, ... {len(value)} numbers)"
    return getattr(value, "__name__", None) or str(value)


def _laid_out(y: Tensor, x: Tensor) -> Tensor:
    """`y` with the strides of `x`: kernels downstream then take the same path, and untouched rows stay bit-equal."""
    if y.stride() == x.stride():
        return y
    return torch.empty_like(x, memory_format=torch.preserve_format).copy_(y)
