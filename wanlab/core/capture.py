"""What to keep of a run: a selection, and how. In one string: "generator.**.z[heads=2]@steps=0:8 -> mean"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from wanlab.core.nearest import suggestion
from wanlab.core.select import Select, SelectionError
from wanlab.core.stat import STATISTICS

POLICIES = ("cpu", "device", "disk", "graph")


@dataclass(frozen=True)
class Capture:
    """Keep the selected values on the `cpu`, on their `device`, on `disk`, with their autograd `graph`, or a statistic.

    `keep` is one of those or the name of a statistic (mean, covariance), which is streamed over rows, steps and
    branches in constant memory. `at` is a selection, or both in one string with " -> ".
    """

    at: Any
    keep: str = "cpu"
    where: Select = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        at, keep = self.at, self.keep
        if isinstance(at, str) and "->" in at:
            at, told = (part.strip() for part in at.rsplit("->", 1))
            if keep not in ("cpu", told):
                raise SelectionError(f"{self.at!r}: keep is given twice")
            keep = told
        known = (*POLICIES, *STATISTICS)
        if keep not in known:
            raise SelectionError(f"a capture cannot keep {keep!r}{suggestion(str(keep), known)}")
        where = Select.of(at)
        for key, value in (("where", where), ("at", str(where) if where.mask is None else where), ("keep", keep)):
            object.__setattr__(self, key, value)

    @classmethod
    def of(cls, value: Capture | Select | str | Mapping[str, Any]) -> Capture:
        """A capture from what a user may give: a string, a selection, or a mapping of a selection with `keep`."""
        if isinstance(value, Capture):
            return value
        if isinstance(value, Mapping):
            rest = dict(value)
            keep = rest.pop("keep", "cpu")
            return cls(Select.of(rest), keep)
        return cls(value)

    @property
    def streams(self) -> bool:
        """Whether a statistic is kept instead of values."""
        return self.keep in STATISTICS

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML; `Capture.of` reads it back."""
        return self.where.to_dict() | ({} if self.keep == "cpu" else {"keep": self.keep})

    def __str__(self) -> str:
        return f"{self.where}" + ("" if self.keep == "cpu" else f" -> {self.keep}")
