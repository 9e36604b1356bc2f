"""A record as the parameter of an edit: in memory, or a saved file together with the hash of its bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from wanlab.core.clock import Tick
from wanlab.core.entry import Entry
from wanlab.core.label import RecordError
from wanlab.core.quote import quoted
from wanlab.core.record import Record
from wanlab.core.select import Select
from wanlab.core.site import Site

T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """Where an edit takes values from. Two are equal when their bytes are, wherever they lie."""

    sha256: str
    path: str | None = field(default=None, compare=False)
    held: Record | None = field(default=None, compare=False)

    @classmethod
    def of(cls, value: Any) -> Source | None:
        """From a Record, the path of a saved one, or what `to_dict` gave; None stays None.

        RecordError for anything else, and for a file that changed.
        """
        if value is None or isinstance(value, Source):
            return value
        if isinstance(value, Record):
            return _saved(Path(value.path)) if value.path else cls(value.digest(), None, value)
        if isinstance(value, Mapping):
            if not set(value) <= {"path", "sha256"} or "path" not in value:
                raise RecordError(f"a saved record is given as path and sha256, not {dict(value)}")
            found = _saved(Path(value["path"]))
            if value.get("sha256", found.sha256) != found.sha256:
                raise RecordError(f"{value['path']} has changed: its sha256 is {found.sha256}, not {value['sha256']}")
            return found
        if isinstance(value, (str, Path)):
            return _saved(Path(value))
        if isinstance(getattr(value, "record", None), Record):
            raise RecordError(f"{type(value).__name__} is what a run gave, its record is a part of it: record=out.record")
        raise RecordError(f"{quoted(value)} is neither a Record nor the path of a saved one")

    @property
    def record(self) -> Record:
        """The record itself; a saved one is read on first use."""
        if self.held is None:
            object.__setattr__(self, "held", Record.load(str(self.path)))
        return self.held    # type: ignore[return-value]  # set above

    @cached_property
    def one_sample(self) -> bool:
        """Whether no entry holds several samples, so that rows do not depend on their place."""
        entries = [self.record.entry(key) for key in self.record.firings]
        return all("b" not in entry.axes or entry.tensor.shape[entry.axes.index("b")] == 1 for entry in entries)

    def at(self, site: str, tick: Tick) -> Entry:
        """The record's entry for a site at a moment."""
        return self.record.at(site, tick)

    def check(self, name: str, site: Site, where: Select) -> None:
        """Raise where the record does not hold `name`, or in a geometry that cannot stand at `site` (rows left aside), or
        not all positions that an edit of `where` needs."""
        entry = self.record.entry(self.record.find(name)[0])
        entry.fits(site, except_axis="b")
        entry.covers(where, site)

    def check_moments(self, name: str, ticks: Iterable[Tick] | None) -> None:
        """Raise where the record lacks a moment at which it will be asked for `name`; None: not known before the run."""
        held = {(key.step, key.branch) for key in self.record.find(name)}
        for tick in ticks or ():
            if not any((step, branch) in held for step in (None, tick.step) for branch in (None, tick.branch)):
                self.record.at(name, tick)

    def check_rows(self, name: str, site: Site, rows: int) -> None:
        """Raise where the record's samples are neither one nor as many as the run's."""
        if site.shape is not None and "b" in site.axes:
            shape = tuple(rows if axis == "b" else size for axis, size in zip(site.axes, site.shape, strict=True))
            self.record.entry(self.record.find(name)[0]).fits(site, shape)

    def __repr__(self) -> str:
        """What one would type for it: its path, where it has one."""
        return f"<record {self.sha256[:12]} in memory>" if self.path is None else repr(self.path)

    def to_dict(self) -> dict[str, str]:
        """Path and hash; NotSaved for a record that lives in memory only and cannot be written down."""
        if self.path is None:
            raise NotSaved("the record lives in memory only: save it (record.save(path)) to write the edit down")
        return {"path": self.path, "sha256": self.sha256}


class NotSaved(RecordError):
    """A record in memory that somebody wants to write down by reference."""


def _saved(path: Path) -> Source:
    if not path.is_file():
        raise RecordError(f"no saved record at {path}")
    return of_file(Source, path)


def of_file(kind: type[T], path: Path) -> T:
    """A `kind`, made of a file's sha256 and path. Hundreds of edits of a study may name one file: as long as one of them lives the
    others share its source, so that the file is hashed and read once."""
    about = path.stat()
    stamp = kind, str(path), about.st_ino, about.st_size, about.st_mtime_ns
    found = _shared.get(stamp)
    if found is None:
        with path.open("rb") as file:
            found = _shared[stamp] = kind(hashlib.file_digest(file, "sha256").hexdigest(), str(path))  # type: ignore[call-arg]
    return found  # type: ignore[no-any-return]


_shared: WeakValueDictionary[tuple[Any, ...], Any] = WeakValueDictionary()
