"""Ledgers: for each edit and capture at each site, when it was due and when it acted. A difference is an error."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wanlab.core.clock import Plan, Tick
from wanlab.core.select import Select, SelectionError

Moment = tuple[int | None, str | None]      # step, branch


class LedgerError(RuntimeError):
    """An edit or capture did not act where it was due, or was never due at all: `ledger` says more.

    `result` is what the run gave all the same, where there is such a thing (an `Output`, of `generate`).
    """

    def __init__(self, message: str, ledger: Ledger | None = None, result: Any = None) -> None:
        super().__init__(message)
        self.ledger, self.result = ledger, result


@dataclass
class Line:
    """One edit or capture at one site. `seen`: the firings of the site; `acted`: those in which it acted."""

    what: str
    site: str
    select: Select
    seen: Counter[Tick] = field(default_factory=Counter)
    acted: Counter[Moment] = field(default_factory=Counter)

    def saw(self, tick: Tick, acted: bool) -> None:
        """Note one firing of the site."""
        self.seen[tick] += 1
        if acted:
            self.acted[_moment(tick)] += 1

    def due(self, plan: Plan) -> set[Moment]:
        """When it should have acted: in every announced step and branch that is selected, if the site has such."""
        sigma = {tick.step: tick.sigma for tick in self.seen}
        ticks = {Tick(step, None, branch) for step in self._steps(plan) for branch in self._branches(plan)}
        return {_moment(tick) for tick in ticks | {replace(tick, sigma=None) for tick in self.seen}
                if self._selected(replace(tick, sigma=sigma.get(tick.step)), plan)}

    def _steps(self, plan: Plan) -> list[int | None]:
        seen = {tick.step for tick in self.seen}
        if not self.seen or None in seen or plan.steps is None:
            return list(seen)
        return list(plan.due_at(self.site))

    def _branches(self, plan: Plan) -> list[str | None]:
        seen = {tick.branch for tick in self.seen}
        return list(seen) if not self.seen or None in seen or plan.branches is None else list(plan.branches)

    def _selected(self, tick: Tick, plan: Plan) -> bool:
        if self.select.sigma is not None and tick.sigma is None:
            return self.select.covers(tick.branch)      # a step that never came: its sigma is not known
        return self.select.acts(tick, plan, self.site)

    def absent(self, plan: Plan) -> bool:
        """Whether the run has no moment for it, because its site fires in other steps alone."""
        if plan.steps_of is None or plan.steps is None or plan.steps_of(self.site) is None:
            return False
        select, steps = replace(self.select, branch=None, words=None), plan.due_at(self.site)
        if select.sigma is not None:
            return not steps or (bool(self.seen) and not self.due(plan))
        return not any(select.acts(Tick(step), plan, self.site) for step in steps)

    def fault(self, plan: Plan, stopped: Tick | None = None) -> str | None:
        """What is wrong, in words; None when nothing is. Of a run that was stopped, only what was due in earlier steps."""
        if stopped is not None:
            return self._fault_before(stopped, plan)
        if not self.seen:
            return "the site never fired"
        due = self.due(plan)
        if not due:
            fired = ", ".join(sorted({str(tick) for tick in self.seen})[:4])
            return f"never due: the site fired at {fired}"
        missing, extra = due - set(self.acted), set(self.acted) - due
        both = (("did not act at", missing), ("acted, undue, at", extra))
        return "; ".join(f"{word} {told(moments)}" for word, moments in both if moments) or None

    def _fault_before(self, stopped: Tick, plan: Plan) -> str | None:
        due = self.due(plan) if self.seen and stopped.step is not None else set()
        missing: set[tuple[int | None, str | None]] = {(step, branch) for step, branch in due - set(self.acted)
                   if step is not None and stopped.step is not None and step < stopped.step}
        return f"did not act at {told(missing)}" if missing else None


class Ledger:
    """All lines of one run. Prints, serialises, and raises where something is amiss."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.plan = Plan()
        self.stopped: Tick | None = None    # by stop_after: what was due later is not held against anybody

    def line(self, what: str, site: str, select: Select) -> Line:
        """A new line to note firings on."""
        self.lines.append(Line(what, site, select))
        return self.lines[-1]

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def faults(self) -> list[str]:
        """One sentence for each line that is amiss."""
        return [f"{line.what} at {line.site}: {fault}" for line in self.lines if (fault := self.fault(line))]

    def fault(self, line: Line) -> str | None:
        """What is wrong with a line, in words; None when nothing is."""
        if self.stopped is not None and not any(other.seen for other in self.lines if other.what == line.what):
            return f"no site of it fired before the run was stopped ({self.stopped})"
        if line.absent(self.plan) and any(other.acted for other in self.lines if other.what == line.what):
            return None                     # a pattern over two experts: in these steps the other was at work
        return line.fault(self.plan, self.stopped)

    def check(self, plan: Plan) -> None:
        """Raise SelectionError for what no step of the run can be for: its sites fire in others alone."""
        if plan.steps_of is None or plan.steps is None:
            return
        able = {line.what for line in self.lines if not line.absent(plan)}
        for line in self.lines:
            if line.what not in able:
                fires = plan.steps_of(line.site) or range(0)
                when = f"only in steps {fires.start} to {fires.stop - 1}" if fires else "in no step"
                alone = f" ({plan.branches[0]} alone)" if plan.branches and len(plan.branches) == 1 else ""
                raise SelectionError(f"{line.what}: of the {plan.steps} steps of this run{alone}, {line.site} fires {when}")

    @property
    def ok(self) -> bool:
        """Whether everything acted exactly when it was due."""
        return not self.faults()

    def verify(self, result: Any = None) -> None:
        """Raise LedgerError where something is amiss; it carries the ledger and the `result`."""
        if faults := self.faults():
            more = f"\n  and {len(faults) - 10} more" if len(faults) > 10 else ""
            raise LedgerError("what was asked for is not what happened:\n  " + "\n  ".join(faults[:10]) + more,
                              self, result)

    def merge(self, other: Ledger) -> Ledger:
        """The lines of both, as of the parts of one run."""
        both = Ledger()
        both.lines, both.stopped = self.lines + other.lines, self.stopped or other.stopped
        both.plan = other.plan if self.plan == Plan() else self.plan
        return both

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what, site, expected and actual moments as [step, branch, count], and what is wrong."""
        return {"ok": self.ok, "stopped": self.stopped and str(self.stopped), "lines": [
            {"what": line.what, "site": line.site, "fault": self.fault(line),
             "expected": [list(moment) for moment in _sorted(line.due(self.plan))] if line.seen else None,
             "actual": [[*moment, line.acted[moment]] for moment in _sorted(line.acted)]}
            for line in self.lines]}

    def save(self, path: str | Path) -> Path:
        """Write `to_dict()` as JSON (to a temporary name first); returns its path."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
        return path

    def __str__(self) -> str:
        rows = [f"{len(self.lines)} edits and captures at sites, {'all as expected' if self.ok else 'NOT as expected'}"]
        for line in self.lines:
            fault = self.fault(line)
            count = f"{sum(line.acted.values())} of {sum(line.seen.values())} firings"
            mark, why = ("!", f" ({fault})") if fault else (".", "")
            rows.append(f"  {mark} {line.what} at {line.site}: {count}{why}")
        return "\n".join(rows)

    __repr__ = __str__


def _moment(tick: Tick) -> Moment:
    return tick.step, tick.branch


def _sorted(moments: Any) -> list[Moment]:
    return sorted(moments, key=lambda moment: (-1 if moment[0] is None else moment[0], moment[1] or ""))


def told(moments: set[Moment]) -> str:
    """Moments in words, in order, the first six of them."""
    words = [str(Tick(step, None, branch)) for step, branch in _sorted(moments)]
    return "; ".join(words[:6]) + (f" and {len(words) - 6} more" if len(words) > 6 else "")
