"""Effects: the paired difference of one cell under one metric, as every figure of differences takes it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

ARROWS = {"higher": "↑", "lower": "↓", "none": ""}


@dataclass(frozen=True)
class Effect:
    """A cell's difference `delta` to the baseline under a metric (by a name that no other has), its interval, whether it is
    significant, which direction is better ("higher", "lower", "none"), and the differences that placebos of this cell made.
    apart: `delta` is no difference but how far the cell is from the baseline, which nothing tests."""

    cell: str
    metric: str
    delta: float
    low: float
    high: float
    significant: bool
    better: str = "none"
    placebos: tuple[float, ...] = ()
    apart: bool = False

    @property
    def kind(self) -> str:
        """better, worse, changed (no direction is better), unclear (not significant) or apart (from the baseline, not tested)."""
        return "apart" if self.apart else kind_of(self.delta, self.significant, self.better)

    @property
    def known(self) -> bool:
        """Whether there is a difference to show."""
        return math.isfinite(self.delta)


def kind_of(delta: float, significant: bool, better: str) -> str:
    """better, worse, changed (no direction is better) or unclear (not significant)."""
    if not significant:
        return "unclear"
    if better == "none":
        return "changed"
    return "better" if (delta > 0) == (better == "higher") else "worse"


def headline(metric: str) -> str:
    """A metric's name as a heading, words apart: lpips [alexnet]."""
    return metric.replace("_", " ").replace("[", " [")


def head(metric: str, better: str) -> str:
    """A metric's name over a panel, with the arrow of the better direction."""
    return f"{headline(metric)} {ARROWS[better]}".strip()


def words_of(effects: Iterable[Effect]) -> str:
    """What a figure of these effects shows, with the baseline's name to follow."""
    kinds = {effect.apart for effect in effects if effect.known} or {False}
    if kinds == {True, False}:
        return "difference to, or value against,"
    return "value against" if kinds == {True} else "difference to"
