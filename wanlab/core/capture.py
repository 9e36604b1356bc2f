"""What to keep of a run: a selection, and how. In one string: "generator.**.z[heads=2]@steps=0:8 -> mean".

With "-> grad" it is the gradient that is kept, under the name "generator.mid.attn.z -> grad"; "-> grad -> mean" streams it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from wanlab.core.nearest import suggestion
from wanlab.core.select import Select, SelectionError
from wanlab.core.stat import STATISTICS, canonical, parse

POLICIES = ("cpu", "device", "disk", "graph")


@dataclass(frozen=True)
class Capture:
    """What to keep at the selected sites, and how: `keep` is one of

    cpu             the values, copied to the CPU (the default)
    device          the values, on the device where they are
    disk            the values, in one safetensors file a firing, mapped into memory when they are read; in the system's
                    folder for temporary files (TMPDIR names another) until the record is gone, or elsewhere by `record.save`
    graph           the values with their autograd graph
    mean            streamed in constant memory over samples, steps and branches, and so are the next four;
                    mean(per=c) keeps the axes c apart, by default all but samples
    covariance      of the channels (axis c, else d) over all else; covariance(per=k) one for each head
    quantiles       of all values with a relative error of 0.001; quantiles(error=0.01,per=c) for each channel
    topk            the 10 largest values and where they stood; topk(k=32,per=c,order=magnitude) (or smallest)
    sample          64 feature rows (axis c, else d) drawn at random, and where they stood; sample(k=256,per=b,seed=1)

    Statistics take by=step, by=branch or by=step|branch: one for each. `record.statistics` holds them, to be merged, asked
    for other quantiles, or used in edits: Mean(site, reference=record). `grad`: what is kept is the gradient of whatever
    is differentiated within the trace with respect to what leaves the site (after the edits there). `at` is a selection,
    or all in one string with " -> ".
    """

    at: Any
    keep: str = "cpu"
    grad: bool = False
    where: Select = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        at, keep, grad = self.at, self.keep, self.grad
        if isinstance(at, str):
            at, told = _split(at)
            if told[:1] == ["grad"]:
                grad = told.pop(0) == "grad"
            if len(told) > 1 or (told and keep not in ("cpu", told[0])):
                raise SelectionError(f"{self.at!r}: write site -> keep, or site -> grad -> keep, with one way to keep it")
            keep = told[0] if told else keep
        known = (*POLICIES, *STATISTICS)
        if keep not in POLICIES:
            kind = str(keep).split("(")[0].strip()
            if kind not in STATISTICS:
                raise SelectionError(f"a capture cannot keep {keep!r}{suggestion(kind, (*known, 'grad'))}")
            keep = canonical(*_read(str(keep)))
        where = Select.of(at)
        for key, value in (("where", where), ("at", str(where) if where.mask is None else where), ("keep", keep),
                           ("grad", bool(grad))):
            object.__setattr__(self, key, value)

    @classmethod
    def of(cls, value: Capture | Select | str | Mapping[str, Any]) -> Capture:
        """A capture from what a user may give: a string, a selection, or a mapping of a selection with `keep`."""
        if isinstance(value, Capture):
            return value
        if isinstance(value, Mapping):
            rest = dict(value)
            keep, grad = rest.pop("keep", "cpu"), rest.pop("grad", False)
            return cls(Select.of(rest), keep, grad)
        if isinstance(value, str) and "mask" not in value:      # a mask may be a file, which may change
            return _read_once(value)
        return cls(value)

    @classmethod
    def several(cls, value: Any) -> list[Capture]:
        """The captures of what a user may give: None, one in any form, or several."""
        if value is None:
            return []
        return [cls.of(one) for one in ([value] if isinstance(value, (str, Capture, Select, Mapping)) else value)]

    @property
    def streams(self) -> bool:
        """Whether a statistic is kept instead of values."""
        return self.keep not in POLICIES

    @property
    def statistic(self) -> tuple[str, dict[str, Any]]:
        """Name and options of the statistic that is kept."""
        return parse(self.keep)

    @property
    def by(self) -> tuple[str, ...]:
        """Of which parts of the clock (step, branch) each has a statistic of its own."""
        parts: tuple[str, ...] = self.statistic[1].get("by", ())
        return parts

    def to_dict(self) -> dict[str, Any]:
        """Plain data for YAML; `Capture.of` reads it back."""
        return (self.where.to_dict() | ({"grad": True} if self.grad else {})
                | ({} if self.keep == "cpu" else {"keep": self.keep}))

    def __str__(self) -> str:
        return f"{self.where}" + (" -> grad" if self.grad else "") + ("" if self.keep == "cpu" else f" -> {self.keep}")


@lru_cache(4096)
def _read_once(text: str) -> Capture:
    return Capture(text)


def _read(keep: str) -> tuple[str, dict[str, Any]]:
    try:
        return parse(keep)
    except LookupError as error:
        raise SelectionError(f"a capture cannot keep {error}") from error


def _split(text: str) -> tuple[str, list[str]]:
    """"site[words=\"->\"] -> grad -> mean" -> ("site[words=\"->\"]", ["grad", "mean"])."""
    told: list[str] = []
    while "->" in text and not set('"]') & set(text.rsplit("->", 1)[1]):
        text, last = (part.strip() for part in text.rsplit("->", 1))
        told.insert(0, last)
    return text, told
