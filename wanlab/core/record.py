"""Records: what a run kept, as tensors with named axes.

    record["generator.mid.attn.pattern"]                     all steps and branches, stacked: axes s, branch, b, k, ...
    record["generator.mid.attn.pattern", 8, "cond"]          one firing
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from wanlab.core.clock import Tick
from wanlab.core.index import index, positions
from wanlab.core.nearest import suggestion
from wanlab.core.select import AXIS_OF
from wanlab.core.site import Site, UnknownSite

GIB = 2**30


class RecordError(LookupError):
    """Something that a record does not hold, or holds in a shape that does not fit."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


class BudgetError(MemoryError):
    """A capture that would keep more than the stated budget."""


class Key(NamedTuple):
    """One firing: the site, when, and the number of the call where a site fires several times at one moment."""

    site: str
    step: int | None = None
    branch: str | None = None
    call: int = 0

    def __str__(self) -> str:
        return f"{self.site} ({Tick(self.step, None, self.branch)}{f', call {self.call}' if self.call else ''})"


@dataclass(frozen=True)
class Entry:
    """A tensor with named axes; `coords` names positions along an axis where they are not 0, 1, 2, ..."""

    tensor: Tensor
    axes: tuple[str, ...]
    site: str = ""
    coords: Mapping[str, Any] = field(default_factory=dict)

    def numpy(self) -> np.ndarray:
        """The values as an array on the CPU (float32 where numpy has no such type)."""
        tensor = self.tensor.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()

    to_numpy = numpy

    def to_xarray(self):  # type: ignore[no-untyped-def]
        """The values as an xarray.DataArray with dimensions and coordinates."""
        import xarray

        return xarray.DataArray(self.numpy(), dims=self.axes, name=self.site or None, coords={
            axis: (axis, list(at)) if axis in self.axes else at for axis, at in self.coords.items()})

    def take(self, **limits: Any) -> Entry:
        """Part of the entry: heads=, frames=, tokens=, ... as in selections, steps= by position on the axis s."""
        known = {**AXIS_OF, "steps": "s"}
        tensor, coords = self.tensor, dict(self.coords)
        for key, value in limits.items():
            if known.get(key) not in self.axes:
                has = [other for other, axis in known.items() if axis in self.axes]
                raise RecordError(f"{self.site or 'the entry'} has axes '{' '.join(self.axes)}': no {key!r} to take"
                                  f"{suggestion(key, has)}")
            at = self.axes.index(known[key])
            kept = positions(index(value, key) or (":",), tensor.shape[at], key)
            labels = coords.get(known[key], range(tensor.shape[at]))
            tensor = tensor.index_select(at, torch.tensor(kept, device=tensor.device))
            coords[known[key]] = tuple(labels[i] for i in kept)
        return replace(self, tensor=tensor, coords=coords)

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
        sizes = dict(zip(self.axes, self.tensor.shape))
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

    def __repr__(self) -> str:
        sizes = " ".join(f"{axis}={size}" for axis, size in zip(self.axes, self.tensor.shape))
        return f"Entry({self.site}: {sizes})"


class Record(Mapping[Any, Entry]):
    """Mapping from a site's name, or (site, step[, branch]), to an Entry. Iterating gives the names."""

    def __init__(self, budget: int | None = None) -> None:
        self.budget, self.bytes = budget, 0
        self._entries: dict[Key, Entry | Path] = {}
        self._calls: dict[tuple[str, int | None, str | None], int] = {}
        self._folder: Path | None = None
        self.path: Path | None = None           # where it was saved, until something is added

    # ------------------------------------------------------------------------------------------------ writing

    def add(self, key: Key, entry: Entry, disk: bool = False) -> None:
        """Keep one firing. Over the budget (bytes in memory) raises BudgetError."""
        if key in self._entries:
            self._calls[key[:3]] = self._calls.get(key[:3], 0) + 1
            key = key._replace(call=self._calls[key[:3]])
        if disk:
            path = self._disk() / f"{len(self._entries):08d}.safetensors"
            _write(path, {key: entry})
            self._entries[key] = path
        else:
            self.bytes += entry.tensor.numel() * entry.tensor.element_size()
            check_budget(self.bytes, self.budget, f"the captures up to {key}")
            self._entries[key] = entry
        self.path = None

    def _disk(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="wanlab-record-"))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    # ------------------------------------------------------------------------------------------------ reading

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.site for key in self._entries))

    def __len__(self) -> int:
        return len({key.site for key in self._entries})

    def __contains__(self, key: object) -> bool:
        try:
            self[key]
        except (LookupError, TypeError):
            return False
        return True

    @property
    def firings(self) -> list[Key]:
        """Every firing that is held, in the order of the run."""
        return list(self._entries)

    def __getitem__(self, key: Any) -> Entry:
        if isinstance(key, str):
            return self._stacked(self.find(key))
        wanted = Key(*key)
        keys = [other for other in self._named(wanted.site) if _fits(other, wanted)]
        if not keys:
            raise RecordError(f"{wanted} is not recorded; there are {self._told(self._named(wanted.site))}")
        return self._stacked(keys)

    def at(self, site: str, tick: Tick) -> Entry:
        """The entry for one moment: of this step and branch, where the site was recorded by step or branch."""
        keys = self.find(site)
        fit = [key for key in keys if key.step in (None, tick.step) and key.branch in (None, tick.branch)]
        if not fit:
            raise RecordError(f"{site} is recorded for {self._told(keys)}, not for {tick}")
        if len(fit) > 1:
            raise RecordError(f"{site} is recorded {len(fit)} times for {tick}: the record is ambiguous")
        return self.entry(fit[0])

    def find(self, site: str) -> list[Key]:
        """The firings held of a site; of its one statistic, where the values themselves were not kept."""
        keys = self._named(site)
        if keys:
            return keys
        reduced = [name for name in self if name.startswith(f"{site} -> ")]
        if len(reduced) == 1:
            return self._named(reduced[0])
        if reduced:
            raise RecordError(f"{site} is recorded as {', '.join(reduced)}: name one of them")
        raise UnknownSite(f"{site!r} is not recorded{suggestion(site, self)}")

    def _named(self, site: str) -> list[Key]:
        return [key for key in self._entries if key.site == site]

    def entry(self, key: Key) -> Entry:
        """One firing, read from disk where it is there."""
        kept = self._entries[key]
        return kept if isinstance(kept, Entry) else _read(kept)[key]

    def _stacked(self, keys: list[Key]) -> Entry:
        first = self.entry(keys[0])
        leading = {"s": _values(keys, "step"), "branch": _values(keys, "branch"), "call": _values(keys, "call")}
        axes = [axis for axis, values in leading.items() if len(values) > 1 or (axis == "s" and values != [None])]
        expected = int(np.prod([len(leading[axis]) for axis in axes], initial=1))
        if expected != len(keys):
            raise RecordError(f"{keys[0].site} did not fire in every branch of every step: {self._told(keys)}; "
                              "ask for (site, step, branch)")
        coords = {axis: tuple(leading[axis]) for axis in axes} | dict(first.coords)
        if "branch" not in axes and leading["branch"] != [None]:
            coords["branch"] = leading["branch"][0]
        if not axes:
            return replace(first, coords=coords)
        ranked = sorted(keys, key=lambda key: tuple(leading[axis].index(_part(key, axis)) for axis in axes))
        parts = [self.entry(key).tensor for key in ranked]
        if len({part.shape for part in parts}) > 1:
            raise RecordError(f"{keys[0].site} fired with different shapes: ask for (site, step, branch)")
        tensor = torch.stack(parts).unflatten(0, [len(leading[axis]) for axis in axes])
        return Entry(tensor, (*axes, *first.axes), first.site, coords)

    @staticmethod
    def _told(keys: list[Key]) -> str:
        told = [str(Tick(key.step, None, key.branch)) for key in keys]
        return "; ".join(told[:6]) + (f" and {len(told) - 6} more" if len(told) > 6 else "")

    def __repr__(self) -> str:
        lines = [f"Record of {len(self)} sites, {len(self._entries)} firings, {self.bytes / GIB:.3f} GiB in memory"]
        return "\n  ".join([*lines, *(f"{site}: {len(self._named(site))}" for site in self)])

    # ------------------------------------------------------------------------------------------------ files

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file (to a temporary name first); returns its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        _write(partial, {key: self.entry(key) for key in self._entries})
        partial.replace(path)
        self.path = path
        return path

    @classmethod
    def load(cls, path: str | Path) -> Record:
        """Read what `save` wrote."""
        record = cls()
        for key, entry in _read(Path(path)).items():
            record.add(key, entry)
        record.path = Path(path)
        return record

    def update(self, other: Record) -> None:
        """Take in the firings of another record, as of the parts of one run."""
        for key in other.firings:
            if key in self._entries:
                raise RecordError(f"{key} is in both records")
            self.add(key, other.entry(key))

    def digest(self) -> str:
        """sha256 of names, moments, axes and bytes."""
        sha = hashlib.sha256()
        for key in sorted(self._entries, key=str):
            entry = self.entry(key)
            sha.update(f"{key}|{entry.axes}|{entry.tensor.dtype}|{tuple(entry.tensor.shape)}".encode())
            sha.update(entry.tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return sha.hexdigest()


def check_budget(size: int, budget: int | None, what: str) -> None:
    """Raise where `size` bytes exceed the budget, saying how to need less."""
    if budget is not None and size > budget:
        raise BudgetError(f"{what} need {size / GIB:.3g} GiB, the budget is {budget / GIB:.3g} GiB: capture fewer "
                          "steps, heads or frames, stream ('site -> mean', 'site -> covariance'), write "
                          "('site -> disk'), or raise budget=")


def _values(keys: list[Key], name: str) -> list[Any]:
    return list(dict.fromkeys(getattr(key, name) for key in keys))


def _part(key: Key, axis: str) -> Any:
    return {"s": key.step, "branch": key.branch, "call": key.call}[axis]


def _fits(key: Key, wanted: Key) -> bool:
    return (wanted.step in (None, key.step)) and (wanted.branch in (None, key.branch))


def _write(path: Path, entries: Mapping[Key, Entry]) -> None:
    about = [{"key": list(key), "axes": entry.axes, "site": entry.site, "coords": dict(entry.coords)}
             for key, entry in entries.items()]
    tensors = {str(i): entry.tensor.detach().cpu().contiguous().clone() for i, entry in enumerate(entries.values())}
    save_file(tensors, path, metadata={"wanlab_record": json.dumps(about)})


def _read(path: Path) -> dict[Key, Entry]:
    with safe_open(path, framework="pt") as file:
        about = (file.metadata() or {}).get("wanlab_record")
        if about is None:
            raise RecordError(f"{path} is a safetensors file, but not a saved record")
        return {Key(*one["key"]): _entry(file.get_tensor(str(i)), one) for i, one in enumerate(json.loads(about))}


def _entry(tensor: Tensor, told: Mapping[str, Any]) -> Entry:
    coords = {axis: tuple(at) if isinstance(at, list) else at for axis, at in told["coords"].items()}
    return Entry(tensor, tuple(told["axes"]), told["site"], coords)
