"""Entries: one tensor of a record with named axes, the positions that it holds, and further labels of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from html import escape
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wanlab.core.index import positions
from wanlab.core.label import Label, RecordError, short
from wanlab.core.part import part_of
from wanlab.core.select import AXIS_OF, Select
from wanlab.core.site import Site


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
    def shape(self) -> torch.Size:
        """Length of each axis, in the order of `axes`."""
        return self.tensor.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """For numpy: the values, as `to_numpy` gives them."""
        return np.array(self.to_numpy(), dtype=dtype, copy=copy)

    def __dlpack__(self, **asked: Any) -> Any:
        """For torch and others: the values, shared where they are."""
        return self.tensor.detach().__dlpack__(**asked)

    def __dlpack_device__(self) -> Any:
        """Where they are, in the terms of DLPack."""
        return self.tensor.__dlpack_device__()

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

    def to_xarray(self) -> Any:
        """The values as an xarray.DataArray with dimensions, coordinates, and labels such as `word`."""
        import xarray

        coords: dict[str, Any] = {axis: (axis, list(at)) if axis in self.axes else at for axis, at in self.coords.items()}
        coords |= {name: (label.axes, label.values) for name, label in self.labels.items()}
        return xarray.DataArray(self.to_numpy(), dims=self.axes, name=self.site or None, coords=coords)

    def take(self, *, branch: Any = None, words: Any = None, **limits: Any) -> Entry:
        """Part of the entry: heads=, frames=, tokens=, steps=, branch=, words=, ... as in selections.

        Numbers are those of the model: of an entry that holds heads 1 and 3, heads=3 is the second. A word means all its
        tokens, and in an entry with guidance branches those of `cond` unless told otherwise. RecordError where something
        asked for is not held, with what is.
        """
        return part_of(self, branch, words, limits)

    # ------------------------------------------------------------------------------------------------ standing at a site

    def mean_over_rows(self) -> Entry:
        """The mean over samples, axis kept; the entry itself where it has no samples."""
        if "b" not in self.axes:
            return self
        return replace(self, tensor=self.tensor.mean(self.axes.index("b"), keepdim=True))

    def fits(self, site: Site, shape: tuple[int, ...] | None = None, except_axis: str = "") -> None:
        """RecordError where the entry cannot stand at a site of that shape (its known one by default); sizes of 1 spread."""
        strange = [axis for axis in self.axes if axis not in site.axes]
        if strange:
            raise RecordError(f"{site.name} has axes '{' '.join(site.axes)}', the record '{' '.join(self.axes)}': "
                              f"it cannot stand there")
        shape = site.shape if shape is None else shape
        wrong = [axis for axis, want in zip(site.axes, shape or ()) if not self._spans(axis, want)]
        if set(wrong) - {except_axis}:
            told = " ".join(f"{axis}={self.full.get(axis, size)}" for axis, size in self.sizes.items())
            raise RecordError(f"the record of {self.site or site.name} has {told}, {site.name} "
                              f"{' '.join(f'{axis}={size}' for axis, size in zip(site.axes, shape or ()))}: "
                              f"{', '.join(wrong)} differ")

    def _spans(self, axis: str, want: int) -> bool:
        """Whether the entry is of a site with that length along an axis."""
        if axis in self.axes and axis in self.coords and axis != "b":
            return self.full.get(axis, want) == want and max(self.coords[axis]) < want
        return self.sizes.get(axis, 1) in (1, want)

    def _partly(self, site: Site, shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
        """The positions held along the axes of which the entry holds a part alone. Rows are samples, not positions."""
        return {axis: self.coords[axis] for axis, want in zip(site.axes, shape)
                if axis in self.axes and axis in self.coords and axis != "b" and len(self.coords[axis]) < want}

    def covers(self, select: Select, site: Site) -> None:
        """Raise where an edit of `select` would need positions that a part of a site does not hold, as far as is known."""
        partly = self._partly(site, site.shape or ())
        for key, axis in AXIS_OF.items():
            if axis in partly and not (select.words is not None and axis in "jn") and select.mask is None:
                size, limit = site.size(axis) or 0, getattr(select, key)
                self._needs(site, axis, range(size) if limit is None else positions(limit, size, key), partly[axis])

    def _needs(self, site: Site, axis: str, asked: Sequence[int], held: Sequence[int]) -> None:
        missing = sorted(set(asked) - set(held))
        if missing:
            key = next((key for key, letter in AXIS_OF.items() if letter == axis), axis)
            raise RecordError(f"the record of {self.site or site.name} holds {key} {short(tuple(held))} alone, not "
                              f"{short(tuple(missing))}: limit the edit to {key}={list(held)}, or record all")

    def like(self, x: Tensor, site: Site, part: Callable[[], Tensor | None] = lambda: None) -> Tensor:
        """The values in the site's order of axes, ready to broadcast against `x`; another geometry raises.

        Where the entry holds some positions alone, `x` stands at the others; `part` gives the region that is needed
        (boolean, broadcasts to `x`; None: all), and what is needed and not held raises.
        """
        self.fits(site, tuple(x.shape))
        order = [self.axes.index(axis) for axis in site.axes if axis in self.axes]
        tensor = self.tensor.permute(order)
        for at, axis in enumerate(site.axes):
            if axis not in self.axes:
                tensor = tensor.unsqueeze(at)
        tensor = tensor.to(x.device, x.dtype, copy=True)        # a copy: the model may write to what it is given
        partly = self._partly(site, tuple(x.shape))
        return self._among(tensor, x, site, partly, part()) if partly else tensor

    def _among(self, tensor: Tensor, x: Tensor, site: Site, partly: Mapping[str, tuple[int, ...]],
               part: Tensor | None) -> Tensor:
        """The held positions at their places among those of `x`."""
        known = torch.ones([1] * x.ndim, dtype=torch.bool, device=x.device)
        for axis, held in partly.items():
            at, size = site.axes.index(axis), x.shape[site.axes.index(axis)]
            others = [i for i in range(x.ndim) if i != at]
            asked = part.any(others) if part is not None and part.shape[at] == size else torch.ones(size)
            self._needs(site, axis, asked.nonzero().flatten().tolist(), held)
            places = torch.tensor(held, device=x.device)
            shape = [size if i == at else n for i, n in enumerate(tensor.shape)]
            tensor = tensor.new_zeros(shape).index_copy(at, places, tensor)
            line = torch.zeros(size, dtype=torch.bool, device=x.device).index_fill(0, places, True)
            known = known & line.reshape([-1 if i == at else 1 for i in range(x.ndim)])
        return torch.where(known, tensor, x)

    # ------------------------------------------------------------------------------------------------ as a value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Entry):
            return NotImplemented
        return self.told() == other.told() and self.tensor.dtype == other.tensor.dtype and (
            self.tensor.shape == other.tensor.shape and torch.equal(raw(self.tensor), raw(other.tensor)))

    __hash__ = None     # type: ignore[assignment]  # equal by value, so there is no hash

    def told(self) -> dict[str, Any]:
        """All but the values, as plain data; `outlined` reads it back."""
        return {"axes": list(self.axes), "site": self.site, "full": dict(self.full),
                "coords": {axis: list(at) if isinstance(at, tuple) else at for axis, at in self.coords.items()},
                "labels": {name: [list(label.axes), label.values.tolist()] for name, label in self.labels.items()}}

    def __repr__(self) -> str:
        sizes = " ".join(f"{axis}={size}" for axis, size in self.sizes.items())
        held = [f"{axis} {short(at)}" for axis, at in self.coords.items()]
        held += [f"labels {', '.join(self.labels)}"] if self.labels else []
        return f"Entry({'; '.join([f'{self.site}: {sizes}, {self.dtype}', *held])})"

    def _repr_html_(self) -> str:
        rows = [(axis, size, short(self.coords.get(axis, (f"0 to {size - 1}",))),
                 ", ".join(name for name, label in self.labels.items() if axis in label.axes))
                for axis, size in self.sizes.items()]
        single = ", ".join(f"{name} {at}" for name, at in self.coords.items() if name not in self.axes)
        head = f"{self.site} ({self.dtype}{', ' + single if single else ''})"
        return table(head, ("axis", "size", "positions", "labels"), rows)


def outlined(tensor: Tensor, told: Mapping[str, Any]) -> Entry:
    """The entry that `Entry.told` described, around a tensor with its axes."""
    coords = {axis: tuple(at) if isinstance(at, list) else at for axis, at in told["coords"].items()}
    labels = {name: Label(tuple(axes), np.array(values)) for name, (axes, values) in told["labels"].items()}
    return Entry(tensor, tuple(told["axes"]), told["site"], coords, labels, dict(told["full"]))


def raw(tensor: Tensor) -> Tensor:
    """The bytes (n) of a tensor of any shape, uint8 on the CPU, in the order of its axes."""
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8)


def table(head: str, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """An HTML table for a notebook; every text is escaped."""
    cells = ["".join(f"<td>{escape(str(one))}</td>" for one in row) for row in rows]
    body = "".join(f"<tr>{row}</tr>" for row in ("".join(f"<th>{escape(name)}</th>" for name in names), *cells))
    return f"<table><caption>{escape(head)}</caption>{body}</table>"
