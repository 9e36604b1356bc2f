"""Records: what a run kept, as tensors with named axes and as statistics.

    record["generator.mid.attn.pattern"]                     all steps and branches, stacked: axes s, branch, b, k, ...
    record["generator.mid.attn.pattern", 8, "cond"]          one firing
    record["text.out[words=left]@steps=0:4"]                 a part, by the grammar of selections
    record["generator.mid.out -> mean"]                      a statistic's value; record.statistics holds the statistic
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from wanlab.core.budget import GIB, BudgetError, check_memory, folder_for_captures
from wanlab.core.clock import Plan, Tick
from wanlab.core.entry import Entry, outlined, raw, table
from wanlab.core.firing import Key, moments, site_of, stacked
from wanlab.core.label import RecordError
from wanlab.core.nearest import suggestion
from wanlab.core.part import dropped
from wanlab.core.quote import quoted
from wanlab.core.select import AXIS_OF, Select
from wanlab.core.site import UnknownSite
from wanlab.core.stat import STATISTICS, Statistic
from wanlab.core.stored import Stored, opened, outline, told, write


class Record(Mapping[Any, Entry]):
    """Mapping from a name, (name, step[, branch]), or a selection, to an Entry. Iterating gives the names.

    A firing is held in memory, in a file (mapped into memory when read), or is a statistic. budget: bytes in memory.
    Two records are equal when they hold the same, wherever it lies.
    """

    def __init__(self, budget: int | None = None) -> None:
        self.budget, self.bytes = budget, 0
        self.steps: int | None = None           # how many the run had, where it was announced
        self.branches: tuple[str, ...] = ()
        self.sigmas: dict[int | None, float] = {}
        self._entries: dict[Key, Entry | Stored | Statistic] = {}
        self._calls: dict[tuple[str, int | None, str | None], int] = {}
        self._folder: Path | None = None
        self.path: Path | None = None           # where it was saved, until something is added

    # ------------------------------------------------------------------------------------------------ writing

    def add(self, key: Key, entry: Entry | Statistic, disk: bool = False) -> None:
        """Keep one firing or a statistic. Over the budget (bytes in memory) raises BudgetError."""
        while key in self._entries:
            self._calls[key[:3]] = self._calls.get(key[:3], 0) + 1
            key = key._replace(call=self._calls[key[:3]])
        if disk and isinstance(entry, Entry):
            path = self._disk() / f"{len(self._entries):08d}.safetensors"
            try:
                write(path, {"0": entry})
            except OSError as error:
                raise BudgetError(f"{key} cannot be written to {self._disk()} ({error}): the environment variable TMPDIR "
                                  "names where captures go") from error
            self._entries[key] = Stored(path, "0", outline(entry))
        else:
            self.weigh(entry.nbytes, key)
            self._entries[key] = entry
        self.path = None

    def weigh(self, change: int, key: Key) -> None:
        """Count bytes that were added to what is in memory; over the budget raises."""
        self.bytes += change
        if self.budget is not None and self.bytes > self.budget:
            check_memory({f"the captures up to {key}": self.bytes}, self.budget)

    def update(self, other: Record) -> None:
        """Take in another record, as of the parts of one run: firings beside each other, statistics merged.

        RecordError for a firing that both have.
        """
        mine, theirs = dict(self._statistics()), dict(other._statistics())
        twice = [key for key in other._entries if key in self._entries and not (key in mine and key in theirs)]
        if twice:
            raise RecordError(f"{twice[0]} is in both records")
        merged = {key: mine[key].merge(part) for key, part in theirs.items() if key in mine}
        for key, part in other._entries.items():
            if key in merged:
                self.weigh(merged[key].nbytes - mine[key].nbytes, key)
                self._entries[key] = merged[key]
            else:
                self.add(key, part.read() if isinstance(part, Stored) else part, disk=isinstance(part, Stored))
        self.steps = other.steps if self.steps is None else self.steps
        self.branches = self.branches or other.branches
        self.sigmas = {**other.sigmas, **self.sigmas}
        self.path = None

    def _disk(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="wanlab-record-", dir=folder_for_captures()))
            weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        return self._folder

    # ------------------------------------------------------------------------------------------------ reading

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys(key.site for key in self._entries))

    def __len__(self) -> int:
        return len({key.site for key in self._entries})

    def __contains__(self, key: object) -> bool:
        try:
            self._keys(key)
        except (LookupError, TypeError, ValueError):
            return False
        return True

    def get(self, key: Any, default: Any = None) -> Any:
        """As `[]`, but the default where that is not held."""
        if key not in self:
            return default
        return self[key]

    @property
    def firings(self) -> list[Key]:
        """Every firing that is held, in the order of the run."""
        return list(self._entries)

    @property
    def statistics(self) -> dict[str, Statistic]:
        """The statistics by name (with the moment, where there is one for each); they merge, and answer more than a value."""
        return {key.site if key[1:3] == (None, None) else str(key): stat for key, stat in self._statistics()}

    def _statistics(self) -> list[tuple[Key, Statistic]]:
        return [(key, stat) for key, stat in self._entries.items() if isinstance(stat, Statistic)]

    def __getitem__(self, key: Any) -> Entry:
        keys, select = self._keys(key)
        self._weigh_reading(keys, select)
        entry = stacked({one: _limited(self.entry(one), select) for one in keys}, self.steps, self.sigmas, self.branches)
        if not isinstance(key, (str, Select)) and "s" in entry.axes and key[1] is not None:
            return dropped(entry, "s")
        return entry

    def _keys(self, key: Any) -> tuple[list[Key], Select | None]:
        """The firings that a name, (name, step[, branch]) or a selection means."""
        if isinstance(key, str) and (any(one.site == key for one in self._entries) or not set("[@") & set(key)):
            return self.find(key), None
        if isinstance(key, (str, Select)):
            select, plan = Select.of(key), Plan(self.steps)
            keys = self.find(select.at)
            at = [one for one in keys if select.acts(Tick(one.step, self.sigmas.get(one.step), one.branch), plan, one.site)]
            return self._some(at, keys, str(select)), select
        if not isinstance(key, tuple) or not 1 <= len(key) <= 3 or not isinstance(key[0], str):
            raise RecordError(f"a record is asked for a name, (name, step[, branch]) or a selection, not for {key!r}")
        wanted, keys = Key(*key), self.find(key[0])
        if not (wanted.step is None or hasattr(wanted.step, "__index__")):
            raise RecordError(f"{wanted.step!r} is no step: ask for (name, step, branch), as in ({key[0]!r}, 0, 'cond'), with "
                              f"None for every step, or for a selection, as in '{key[0]}@steps=0:4,branch=cond'")
        return self._some([one for one in keys if one.fits(wanted)], keys, str(wanted)), None

    def at(self, site: str, tick: Tick) -> Entry:
        """The entry for one moment: of this step and branch, where the site was recorded by step or branch.

        RecordError where there is none, or more than one.
        """
        keys = self.find(site)
        fit = [key for key in keys if key.step in (None, tick.step) and key.branch in (None, tick.branch)]
        if not fit:
            raise RecordError(f"{site} is recorded for {moments(keys)}, not for {tick}")
        if len(fit) > 1:
            raise RecordError(f"{site} is recorded {len(fit)} times for {tick}: the record is ambiguous")
        return self.entry(fit[0])

    def find(self, site: str) -> list[Key]:
        """The firings of a name; of a site whose only capture has a longer name (a statistic, a part), those of that.

        UnknownSite where there is none, RecordError where several have longer names.
        """
        keys = [key for key in self._entries if key.site == site]
        if keys:
            return keys
        longer = [name for name in self if name.startswith((f"{site} -> ", f"{site}[", f"{site}@", f"{site}("))
                  and (" -> grad" in site or " -> grad" not in name)]       # a gradient is never taken for a value
        if len(longer) > 1:
            raise RecordError(f"{site} is recorded as {', '.join(longer)}: name one of them")
        if not longer:
            raise UnknownSite(f"{site!r} is not recorded{suggestion(site, self)}")
        return [key for key in self._entries if key.site == longer[0]]

    def entry(self, key: Key) -> Entry:
        """One firing; from disk it is mapped into memory. A statistic's value."""
        held = self._held(key)
        return held.entry(site_of(key.site)) if isinstance(held, Statistic) else held

    def _some(self, keys: list[Key], held: list[Key], asked: str) -> list[Key]:
        if not keys:
            raise RecordError(f"{asked} is not recorded; there are {moments(held)}")
        return keys

    def _weigh_reading(self, keys: list[Key], select: Select | None) -> None:
        """What lies on disk may be larger than memory: one firing is mapped, several are copied side by side."""
        stored = [kept.outline.nbytes for key in keys if isinstance(kept := self._entries[key], Stored)]
        limited = select is not None and any(getattr(select, name) is not None for name in (*AXIS_OF, "words"))
        if len(stored) > 1 and not limited and self.budget is not None and sum(stored) > self.budget:
            raise BudgetError(f"{keys[0].site} takes {sum(stored) / GIB:.3g} GiB on disk, the budget is "
                              f"{self.budget / GIB:.3g} GiB: ask for one firing, record[{keys[0].site!r}, step, branch], or "
                              f"for a part, record['{keys[0].site}[frames=0]@steps=0:4']; or raise record.budget")

    # ------------------------------------------------------------------------------------------------ as a value

    def _rows(self) -> list[tuple[str, int, str, str, str]]:
        """For each name: firings, axes with sizes, type, where it lies."""
        rows = []
        for name in self:
            keys = [key for key in self._entries if key.site == name]
            kept = self._entries[keys[0]]
            if isinstance(kept, Statistic):
                rows.append((name, len(keys), " ".join(kept.axes), f"{kept.name} of {kept.count}", "statistic"))
                continue
            one = kept.outline if isinstance(kept, Stored) else kept
            sizes = " ".join(f"{axis}={size}" for axis, size in one.sizes.items())
            rows.append((name, len(keys), sizes, one.dtype, "disk" if isinstance(kept, Stored) else "memory"))
        return rows

    def _head(self) -> str:
        return f"Record of {len(self)} sites, {len(self._entries)} firings, {self.bytes / GIB:.3f} GiB in memory"

    def __repr__(self) -> str:
        lines = [f"{name}: {count}  {sizes}  {dtype}, {where}" for name, count, sizes, dtype, where in self._rows()]
        return "\n  ".join([self._head(), *lines])

    def _repr_html_(self) -> str:
        return table(self._head(), ("site", "firings", "axes", "values", "where"), self._rows())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Record):
            return NotImplemented
        if (self.firings, self._run()) != (other.firings, other._run()):
            return False
        return all(self._held(key) == other._held(key) for key in self._entries)

    __hash__ = None     # type: ignore[assignment]  # equal by value, so there is no hash

    def _run(self) -> dict[str, Any]:
        return {"steps": self.steps, "branches": list(self.branches), "sigmas": sorted(self.sigmas.items())}

    def _held(self, key: Key) -> Entry | Statistic:
        kept = self._entries[key]
        return kept.read() if isinstance(kept, Stored) else kept

    def digest(self) -> str:
        """sha256 of names, moments, axes and bytes."""
        sha = hashlib.sha256()
        for key in sorted(self._entries, key=str):
            held = self._held(key)
            tensors = held.state() if isinstance(held, Statistic) else {"": held.tensor}
            sha.update(f"{key}|{held.axes}".encode())
            for name, tensor in tensors.items():
                sha.update(f"|{name}|{tensor.dtype}|{tuple(tensor.shape)}".encode() + raw(tensor).numpy().tobytes())
        return sha.hexdigest()

    # ------------------------------------------------------------------------------------------------ files

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file (to a temporary name first); returns its path. No more than one firing is read at once."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        about: list[dict[str, Any]] = []
        tensors: dict[str, Entry | Stored | Tensor] = {}
        for i, (key, kept) in enumerate(self._entries.items()):
            if isinstance(kept, Statistic):
                about.append({"key": list(key), "statistic": kept.told()})
                tensors |= {f"{i}.{name}": part for name, part in kept.state().items()}
            else:
                about.append({"key": list(key), "entry": (kept.outline if isinstance(kept, Stored) else kept).told()})
                tensors[str(i)] = kept
        partial = path.with_name(f".{path.name}.partial")
        write(partial, tensors, {**self._run(), "firings": about})
        partial.replace(path)
        self.path = path
        return path

    @classmethod
    def load(cls, path: str | Path) -> Record:
        """What `save` wrote. Values stay in the file and are mapped into memory where they are used.

        RecordError for a damaged file, or one of another version.
        """
        record, path = cls(), Path(path)
        file = opened(path)
        about = told(path, file)
        try:
            record._fill(about, file, path)
        except MemoryError:
            raise
        except Exception as error:  # of a damaged header anything may follow
            raise RecordError(f"{path} is damaged, or of another version: {type(error).__name__}: {error}") from error
        record.path = path
        return record

    def _fill(self, about: Mapping[str, Any], file: Any, path: Path) -> None:
        """Take over what a file says of a record, and where its tensors lie."""
        self.steps, self.branches, self.sigmas = about["steps"], tuple(about["branches"]), dict(about["sigmas"])
        for i, one in enumerate(about["firings"]):
            key = Key(*one["key"])
            if not isinstance(key.site, str) or not isinstance(key.branch, str | None) or not isinstance(key.step, int | None):
                raise RecordError(f"{quoted(one['key'])} is no firing")
            if "statistic" in one:
                names = STATISTICS[one["statistic"]["name"]].STATE
                state = {name: file.get_tensor(f"{i}.{name}").clone() for name in names}
                self.add(key, Statistic.restored(one["statistic"], state))
            else:
                entry = outlined(file.get_tensor(str(i)), one["entry"])
                if len(entry.axes) != entry.tensor.ndim or not all(isinstance(axis, str) for axis in entry.axes):
                    raise RecordError(f"{key.site} has axes {quoted(entry.axes)} and {entry.tensor.ndim} of values")
                self._entries[key] = Stored(path, str(i), outline(entry), file)


def _limited(entry: Entry, select: Select | None) -> Entry:
    if select is None:
        return entry
    if select.mask is not None:
        raise RecordError(f"{entry.site}: a mask cuts no rectangle out of a record; take all, and index the array by the mask")
    limits = {name: getattr(select, name) for name in (*AXIS_OF, "words") if getattr(select, name) is not None}
    return entry.take(**limits)
