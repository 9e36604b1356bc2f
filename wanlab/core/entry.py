"""Entries: one tensor of a record with named axes, the positions that it holds, and further labels of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from wanlab.core.index import Index, holds, index, positions
from wanlab.core.nearest import suggestion
from wanlab.core.select import AXIS_OF
from wanlab.core.site import Site

LIMITS = {**AXIS_OF, "steps": "s"}


class RecordError(LookupError):
    """Something that a record does not hold, or holds in a shape that does not fit."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class Label(NamedTuple):
    """Further names of positions: one value for each position along `axes` (the word at a token, the frame of a maximum)."""

    axes: tuple[str, ...]
    values: np.ndarray

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Label) and self.axes == other.axes and self.values.tolist() == other.values.tolist()


@dataclass(frozen=True, eq=False)
class Entry:
    """A tensor with named axes.

    coords: the model's own positions along an axis, where they are not 0, 1, 2, ...; for what is no axis, one value.
    full: the length that such an axis has in the model, where known. labels: further names of positions.
    Two entries are equal when all of that is, and the bytes of the tensor.
    """

    tensor: Tensor
    axes: tuple[str, ...]
    site: str = ""
    coords: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, Label] = field(default_factory=dict)
    full: Mapping[str, int] = field(default_factory=dict)

    @property
    def sizes(self) -> dict[str, int]:
        """Length of each axis."""
        return dict(zip(self.axes, self.tensor.shape, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return self.tensor.numel() * self.tensor.element_size()

    @property
    def dtype(self) -> str:
        """Type of the values: float32, bfloat16, ..."""
        return str(self.tensor.dtype).removeprefix("torch.")

    def to_numpy(self) -> np.ndarray:
        """The values as an array on the CPU (float32 where numpy has no such type)."""
        tensor = self.tensor.detach().cpu()
        known = tensor.dtype in (torch.float16, torch.float32, torch.float64) or not tensor.is_floating_point()
        return (tensor if known else tensor.float()).numpy()

    def to_xarray(self):  # type: ignore[no-untyped-def]
        """The values as an xarray.DataArray with dimensions, coordinates, and labels such as `word`."""
        import xarray

        coords: dict[str, Any] = {axis: (axis, list(at)) if axis in self.axes else at for axis, at in self.coords.items()}
        coords |= {name: (label.axes, label.values) for name, label in self.labels.items()}
        return xarray.DataArray(self.to_numpy(), dims=self.axes, name=self.site or None, coords=coords)

    # ------------------------------------------------------------------------------------------------ parts

    def take(self, *, branch: Any = None, words: Any = None, **limits: Any) -> Entry:
        """Part of the entry: heads=, frames=, tokens=, steps=, branch=, words=, ... as in selections.

        Numbers are those of the model: of an entry that holds heads 1 and 3, heads=3 is the second. A word means all its
        tokens, and in an entry with guidance branches those of `cond` unless told otherwise. RecordError where something
        asked for is not held, with what is.
        """
        part = self
        if words is not None and branch is None and "branch" in self.axes:
            branch = "cond"
        if branch is not None:
            part = part._branch(branch)
        for key, value in limits.items():
            if LIMITS.get(key) not in self.axes:
                has = [other for other, axis in LIMITS.items() if axis in self.axes] + ["branch"] * ("branch" in self.axes)
                raise RecordError(f"{self.site or 'the entry'} has axes '{' '.join(self.axes)}': no {key!r} to take"
                                  f"{suggestion(key, has)}")
            asked = index(value, key)
            if asked is not None:
                axis = LIMITS[key]
                labels = part.coords.get(axis, range(part.sizes[axis]))
                full = part.full.get(axis, None if axis in part.coords else part.sizes[axis])
                part = part._at(axis, _held(labels, asked, full, f"{self.site}: {key}" if self.site else key), full)
        return part if words is None else part._words([words] if isinstance(words, str) else list(words))

    def _branch(self, asked: Any) -> Entry:
        names = [asked] if isinstance(asked, str) else list(asked)
        held = self.coords.get("branch", ()) if "branch" in self.axes else (self.coords.get("branch"),)
        for name in names:
            if name not in held:
                told = ", ".join(one for one in held if one) or "none"
                raise RecordError(f"{self.site or 'the entry'} is not held for branch {name!r}; it has {told}")
        if "branch" not in self.axes:
            return self
        part = self._at("branch", [held.index(name) for name in names], None)
        return part.drop("branch") if len(names) == 1 else part

    def drop(self, axis: str) -> Entry:
        """The entry without an axis of length 1; its position stays as a single coordinate."""
        at = self.axes.index(axis)
        coords = {**self.coords, axis: self.coords.get(axis, (0,))[0]}
        labels = {name: Label(tuple(one for one in label.axes if one != axis),
                              label.values.take(0, label.axes.index(axis)) if axis in label.axes else label.values)
                  for name, label in self.labels.items()}
        full = {name: size for name, size in self.full.items() if name != axis}
        return replace(self, tensor=self.tensor.squeeze(at), axes=(*self.axes[:at], *self.axes[at + 1:]), coords=coords,
                       labels=labels, full=full)

    def _at(self, axis: str, kept: list[int], full: int | None) -> Entry:
        at = self.axes.index(axis)
        tensor = self.tensor.index_select(at, torch.tensor(kept, device=self.tensor.device))
        known = self.coords.get(axis, range(self.tensor.shape[at]))
        labels = {name: label._replace(values=label.values.take(kept, label.axes.index(axis)))
                  if axis in label.axes else label for name, label in self.labels.items()}
        return replace(self, tensor=tensor, coords={**self.coords, axis: tuple(known[i] for i in kept)}, labels=labels,
                       full={**self.full, **({} if full is None else {axis: full})})

    def _words(self, words: list[str]) -> Entry:
        if "word" not in self.labels:
            raise RecordError(f"{self.site or 'the entry'} holds no prompt's tokens, so there are no words to take")
        label = self.labels["word"]
        if label.axes[:-1] not in ((), ("b",)):
            raise RecordError(f"{self.site}: the prompt's tokens differ along {', '.join(label.axes[:-1])}: take one branch")
        rows = label.values.reshape(-1, label.values.shape[-1])
        kept = [_tokens_of(words, row.tolist(), i if len(rows) > 1 else None) for i, row in enumerate(rows)]
        axis = label.axes[-1]
        if all(tokens == kept[0] for tokens in kept):
            return self._at(axis, kept[0], self.full.get(axis, None if axis in self.coords else self.sizes[axis]))
        if len({len(tokens) for tokens in kept}) > 1:
            told = ", ".join(f"{len(tokens)} in row {i}" for i, tokens in enumerate(kept))
            raise RecordError(f"{self.site}: the words {', '.join(words)} have different numbers of tokens ({told}): "
                              "take one row (rows=0)")
        return self._words_by_row(axis, kept, rows)

    def _words_by_row(self, axis: str, kept: list[list[int]], rows: np.ndarray) -> Entry:
        """As many tokens in each row, but others: the axis counts them, and label `token` says where they stood."""
        at, b = self.axes.index(axis), self.axes.index("b")
        parts = [self.tensor.narrow(b, row, 1).index_select(at, torch.tensor(tokens, device=self.tensor.device))
                 for row, tokens in enumerate(kept)]
        known = self.coords.get(axis, range(self.tensor.shape[at]))
        labels = {name: label for name, label in self.labels.items() if axis not in label.axes}
        labels["word"] = Label(("b", axis), np.array([row[tokens] for row, tokens in zip(rows, kept, strict=True)]))
        labels["token"] = Label(("b", axis), np.array([[known[i] for i in tokens] for tokens in kept]))
        return replace(self, tensor=torch.cat(parts, b), labels=labels,
                       coords={name: value for name, value in self.coords.items() if name != axis},
                       full={name: size for name, size in self.full.items() if name != axis})

    # ------------------------------------------------------------------------------------------------ standing at a site

    def mean_over_rows(self) -> Entry:
        """The mean over samples, axis kept; the entry itself where it has no samples."""
        if "b" not in self.axes:
            return self
        return replace(self, tensor=self.tensor.mean(self.axes.index("b"), keepdim=True))

    def fits(self, site: Site, shape: tuple[int, ...] | None = None, except_axis: str = "") -> None:
        """Raise where the entry cannot stand at a site of that shape (its known one by default); sizes of 1 spread."""
        strange = [axis for axis in self.axes if axis not in site.axes]
        if strange:
            raise RecordError(f"{site.name} has axes '{' '.join(site.axes)}', the record '{' '.join(self.axes)}': "
                              f"it cannot stand there")
        sizes = self.sizes
        shape = site.shape if shape is None else shape
        wrong = [axis for axis, want in zip(site.axes, shape or ()) if sizes.get(axis, 1) not in (1, want)]
        if set(wrong) - {except_axis}:
            told = " ".join(f"{axis}={size}" for axis, size in sizes.items())
            raise RecordError(f"the record of {self.site or site.name} has {told}, {site.name} "
                              f"{' '.join(f'{axis}={size}' for axis, size in zip(site.axes, shape or ()))}: "
                              f"{', '.join(wrong)} differ")

    def like(self, x: Tensor, site: Site) -> Tensor:
        """The values in the site's order of axes, ready to broadcast against `x`; another geometry raises."""
        self.fits(site, tuple(x.shape))
        order = [self.axes.index(axis) for axis in site.axes if axis in self.axes]
        tensor = self.tensor.permute(order)
        for at, axis in enumerate(site.axes):
            if axis not in self.axes:
                tensor = tensor.unsqueeze(at)
        return tensor.to(x.device, x.dtype, copy=True)      # a copy: the model may write to what it is given

    # ------------------------------------------------------------------------------------------------ as a value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entry):
            return NotImplemented
        return self.told() == other.told() and self.tensor.dtype == other.tensor.dtype and (
            self.tensor.shape == other.tensor.shape and torch.equal(raw(self.tensor), raw(other.tensor)))

    __hash__ = None     # type: ignore[assignment]

    def told(self) -> dict[str, Any]:
        """All but the values, as plain data; `outlined` reads it back."""
        return {"axes": list(self.axes), "site": self.site, "full": dict(self.full),
                "coords": {axis: list(at) if isinstance(at, tuple) else at for axis, at in self.coords.items()},
                "labels": {name: [list(label.axes), label.values.tolist()] for name, label in self.labels.items()}}

    def __repr__(self) -> str:
        sizes = " ".join(f"{axis}={size}" for axis, size in self.sizes.items())
        held = [f"{axis} {_short(at)}" for axis, at in self.coords.items()]
        held += [f"labels {', '.join(self.labels)}"] if self.labels else []
        return f"Entry({'; '.join([f'{self.site}: {sizes}, {self.dtype}', *held])})"

    def _repr_html_(self) -> str:
        rows = [(axis, size, _short(self.coords.get(axis, (f"0 to {size - 1}",))),
                 ", ".join(name for name, label in self.labels.items() if axis in label.axes))
                for axis, size in self.sizes.items()]
        single = ", ".join(f"{name} {at}" for name, at in self.coords.items() if name not in self.axes)
        head = f"{self.site} ({self.dtype}{', ' + single if single else ''})"
        return table(head, ("axis", "size", "positions", "labels"), rows)


def outlined(tensor: Tensor, told: Mapping[str, Any]) -> Entry:
    """The entry that `Entry.told` described, around a tensor."""
    coords = {axis: tuple(at) if isinstance(at, list) else at for axis, at in told["coords"].items()}
    labels = {name: Label(tuple(axes), np.array(values)) for name, (axes, values) in told["labels"].items()}
    return Entry(tensor, tuple(told["axes"]), told["site"], coords, labels, dict(told["full"]))


def raw(tensor: Tensor) -> Tensor:
    """The bytes of a tensor, on the CPU, in the order of its axes."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def table(head: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table for a notebook; every text is escaped."""
    cells = ["".join(f"<td>{escape(str(one))}</td>" for one in row) for row in rows]
    body = "".join(f"<tr>{row}</tr>" for row in ("".join(f"<th>{escape(name)}</th>" for name in names), *cells))
    return f"<table><caption>{escape(head)}</caption>{body}</table>"


def _held(labels: Sequence[int], asked: Index, full: int | None, what: str) -> list[int]:
    """Where among `labels` the asked positions stand. One that is not there raises."""
    wanted = None if full is None else set(positions(asked, full, what))
    found = [i for i, one in enumerate(labels) if (one in wanted if wanted is not None else holds(asked, one, None, what))]
    single = [one if one >= 0 or full is None else one % full for one in asked if isinstance(one, int)]
    missing = [one for one in single if one not in labels]
    if missing or not found:
        told = ", ".join(map(str, missing)) or ", ".join(map(str, asked))
        raise RecordError(f"{what}={told} is not held; there are {_short(tuple(labels))}")
    return found


def _tokens_of(words: list[str], row: list[str], number: int | None) -> list[int]:
    """Positions of the words' tokens in one row of labels; a word that is not there raises with those that are."""
    found: set[int] = set()
    for word in words:
        exact = [i for i, one in enumerate(row) if one == word]
        at = exact or [i for i, one in enumerate(row) if one.casefold() == word.casefold() and one]
        if not at:
            has = list(dict.fromkeys(filter(None, row)))
            raise RecordError(f"no word {word!r}{'' if number is None else f' in row {number}'}{suggestion(word, has)}; "
                              f"held: {' '.join(has)}")
        found.update(at)
    return sorted(found)


def _short(values: Any) -> str:
    if not isinstance(values, tuple):
        return str(values)
    told = [str(value) for value in values]
    return ", ".join(told if len(told) < 9 else [*told[:4], "...", *told[-2:]])
