"""Contrasts: two runs of one pipeline that differ in a prompt, an image, a seed or an edit; what causal questions start from.

    contrast = Contrast(pipe, clean=pipe.request(image, "a red circle moves left", 0),
                        corrupted=pipe.request(image, "a red circle moves right", 0))
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanlab.analysis.cells import generate
from wanlab.core import GIB, Capture, Edit, Record
from wanlab.core.source import Source

PICTURES = ("images", "last")       # of a request: the first frames, and the last where a pipeline takes it


class ContrastError(ValueError):
    """Two runs that cannot be compared place by place."""


@dataclass
class Contrast:
    """`clean` and `corrupted` are requests; `corrupting` edits (noise on a stage) act in the corrupted run and stay in all that
    are made of it. The two must be alike in rows, steps, branches and size."""

    pipe: Any
    clean: Any
    corrupted: Any
    corrupting: tuple[Edit, ...] = ()
    budget: int | None = 4 * GIB

    def __post_init__(self) -> None:
        self.corrupting = (self.corrupting,) if isinstance(self.corrupting, Edit) else tuple(self.corrupting)
        one, other = _geometry(self.pipe, self.clean), _geometry(self.pipe, self.corrupted)
        for name in one:
            if one[name] != other[name]:
                raise ContrastError(f"the clean and the corrupted run differ in geometry: {name} {one[name]} and {other[name]}; "
                                    "patches need the same places in both")
        if not _differences(self.clean, self.corrupted) and not self.corrupting:
            raise ContrastError("the clean and the corrupted run are the same: change prompt, image or seed, or say corrupting=")

    def run(self, which: str) -> tuple[Any, tuple[Edit, ...]]:
        """Request and edits of one of the two: "clean" or "corrupted"."""
        return (self.clean, ()) if which == "clean" else (self.corrupted, self.corrupting)

    def record(self, which: str, at: Iterable[str]) -> Record:
        """What one of the two runs keeps at some sites."""
        request, edits = self.run(which)
        return generate(self.pipe, request, edits=edits, capture=[Capture.of(one) for one in at], budget=self.budget).record


def _geometry(pipe: Any, request: Any) -> dict[str, Any]:
    """What two runs must have in common."""
    return {"rows": len(request), "steps": request.steps, "guidance": request.guidance, "branches": pipe.branches(request),
            "guidance_2": request.guidance if request.guidance_2 is None else request.guidance_2,
            **{name: None if (given := getattr(request, name)) is None else tuple(given.shape[1:]) for name in PICTURES}}


def _differences(one: Any, other: Any) -> list[str]:
    names = [name for name in ("prompts", "seeds", "negative") if getattr(one, name) != getattr(other, name)]
    for name in PICTURES:
        mine, theirs = getattr(one, name), getattr(other, name)
        if mine is not theirs and (mine is None or theirs is None or not bool((mine == theirs).all())):
            names.append(name)
    return names


def kept(record: Record, path: str | Path | None) -> Source:
    """A record as the parameter of many edits, its bytes hashed once; with a path it is saved first, so that the edits can be
    written down."""
    if path is not None:
        record.save(path)
    source = Source.of(record)
    assert source is not None
    return source
