"""What a careful reader has to know about the numbers of a study, in sentences that name the numbers they speak of."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from wanlab.measure import key_of
from wanlab.pipelines.wan_presets import PRESETS

from .inference import SIGNIFICANT, Resampler
from .spec import RESAMPLES, Study
from .stats import Result

SMALL_N = 12  # below this many units an interval is a rough guide only (docs/statistics.md has its coverage)
LISTED = 8  # names that one sentence lists


def cautions(study: Study, results: Sequence[Result]) -> list[str]:
    """Sentences for the report, the weightiest first."""
    found: list[str] = []
    for part in PARTS:
        found += part(study, results)
    return found


def _few(study: Study, results: Sequence[Result]) -> Iterable[str]:
    known = [r for r in results if math.isfinite(r.value)]
    small = sorted({r.n for r in known if r.n < SMALL_N})
    if small:
        metrics = _listed({r.key for r in known if r.n < SMALL_N}) if len({r.n for r in known}) > 1 else "every metric"
        count = f"n = {small[0]}" if len(small) == 1 else f"n = {small[0]} to {small[-1]}"
        yield (
            f"{count} ({metrics}): below n = {SMALL_N} an interval is a rough guide, and a difference that is not "
            "significant means little."
        )


def _no_value(study: Study, results: Sequence[Result]) -> Iterable[str]:
    """Why there is no number: too few units for a distance between sets, or a mean over none."""
    absent = [r for r in results if not math.isfinite(r.value)]
    for fewest in sorted({r.fewest for r in absent if 0 < r.n < r.fewest}):
        sets = {r.key: r.n for r in absent if r.fewest == fewest}
        yield f"No value for {_listed(sets)}: n = {min(sets.values())}, and such a set distance needs n = {fewest}."
    if empty := [_name(r) for r in absent if not r.n]:
        yield f"No value for {_listed(empty)}: no sample has a finite one."


def _cannot_be_significant(study: Study, results: Sequence[Result]) -> Iterable[str]:
    """Families in which not even the smallest p that n and the resamples allow would survive the correction."""
    resampler = Resampler(study.stats.resamples)
    families: dict[str, list[Result]] = {}
    for result in results:
        if math.isfinite(result.p) and result.statistic == "mean" and not result.placebo_of:  # of a sign-flip test
            families.setdefault(result.family, []).append(result)
    hopeless: dict[tuple[int, int], list[str]] = {}
    for name, members in families.items():
        n, size = max(r.pairs for r in members), len(members)
        if resampler.smallest_p(n) * size >= SIGNIFICANT:
            hopeless.setdefault((n, size), []).append(name)
    for (n, size), names in hopeless.items():
        p = resampler.smallest_p(n)
        yield (
            f"n = {n} with {size} comparisons in a family: the smallest p that a sign-flip test can give is {p:.2g}, which Holm's "
            f"correction makes {min(1, p * size):.2g}, so no difference in {_listed(names)} can be called significant "
            f"({_would_do(n, size, resampler)})."
        )


def _would_do(n: int, size: int, resampler: Resampler) -> str:
    """What would let a difference in a family of this size be significant: more units, and more resamples where no n would do."""
    if more := _enough(n, size, resampler):
        return f"n = {more} would do"
    resamples = math.ceil(size / SIGNIFICANT / 1000 + 1) * 1000
    if resamples > RESAMPLES:
        return "nothing but a smaller family would do"
    more = _enough(n, size, Resampler(resamples))
    return (f"n = {more} with " if more != n else "") + f"stats.resamples of {resamples:,} would do"


def _enough(n: int, size: int, resampler: Resampler) -> int | None:
    """The smallest number of units, from n, that can be significant; None where the resamples are too few for any."""
    return next((more for more in range(n, 64) if resampler.smallest_p(more) * size < SIGNIFICANT), None)


def _left_out(study: Study, results: Sequence[Result]) -> Iterable[str]:
    measured = {r.key for r in results}
    absent = [name for name in study.metrics if key_of(name) not in measured]
    if absent:
        yield f"Left out, because real pictures come without the truth that they need: {_listed(absent)}."


def _from_baseline(study: Study, results: Sequence[Result]) -> Iterable[str]:
    if said := from_baseline(study, results):
        yield said


def from_baseline(study: Study, results: Sequence[Result]) -> str:
    """Which columns hold no differences, and why; nothing where none."""
    apart = dict.fromkeys(r.key for r in results if r.from_baseline)
    return against_baseline(study.baseline, apart) if apart else ""


def against_baseline(baseline: str, metrics: Iterable[str]) -> str:
    """What to know of metrics that judge agreement with the baseline's own videos."""
    return (
        f"The reference is the clip of {baseline}: its own agreement with it is perfect by construction, so {_listed(metrics)} "
        "have no difference, no test and no best, and every row holds their own interval: their values say how far a cell is from "
        "it, not how good it is."
    )


def _unpaired(study: Study, results: Sequence[Result]) -> Iterable[str]:
    fewer = [r for r in results if r.pairs and r.pairs < r.n]
    if fewer:
        worst = min(fewer, key=lambda r: r.pairs)
        yield (
            f"Some differences rest on fewer samples than the values beside them, because {study.baseline} has no value there: "
            f"{_name(worst)} on {worst.pairs} of {worst.n}" + (f", and {len(fewer) - 1} more." if len(fewer) > 1 else ".")
        )


def _no_width(study: Study, results: Sequence[Result]) -> Iterable[str]:
    means = [r for r in results if r.statistic == "mean" and r.n > 1 and not r.from_baseline]
    if flat := [_name(r) for r in means if r.ci_low == r.ci_high]:
        yield (
            "All samples have the same value, so the interval has no width (it says nothing about how rare another value is): "
            f"{_listed(flat)}."
        )
    if alike := [_name(r) for r in means if r.pairs > 1 and r.delta_low == r.delta_high != 0]:
        yield (
            "All samples differ by the same number, so the interval of the difference has no width (it says nothing about how "
            f"rare another is): {_listed(alike)}."
        )


def _no_spread(study: Study, results: Sequence[Result]) -> Iterable[str]:
    """Set distances that stay the same whichever block leaves."""
    sets = [r for r in results if r.statistic == "distance" and r.n >= r.fewest]
    if still := [_name(r) for r in sets if math.isfinite(r.value) and not math.isfinite(r.ci_low)]:
        yield f"Leaving out any of the samples does not change the value, so it has no interval: {_listed(still)}."
    if moved := [_name(r) for r in sets if math.isfinite(r.delta) and not math.isfinite(r.delta_low)]:
        yield (
            "Leaving out any of the samples does not change the difference, so it has no interval, and its p is the smallest that "
            f"sign flips of so few could give (1 where there is no difference): {_listed(moved)}."
        )


def _sets(study: Study, results: Sequence[Result]) -> Iterable[str]:
    sets = [r for r in results if r.statistic == "distance" and math.isfinite(r.value)]
    if sets:
        n = min(r.n for r in sets)
        yield (
            f"Set distances ({_listed({r.key for r in sets})}) are biased upwards at small n (here n = {n}); all cells share n, "
            "so differences are comparable. Their block-jackknife intervals use Student's t with blocks - 1 degrees of freedom "
            f"({min(16, n) - 1} here) and are conservative: wider than need be, the more so the smaller n is."
        )


def _placebos(study: Study, results: Sequence[Result]) -> Iterable[str]:
    most = max((len(r.placebos) for r in results), default=0)
    if most:
        yield (
            f"Up to {most} placebo cells per component show what an edit of equal size at random sites does: an effect that is not "
            f"larger than all of them is none to speak of, and {most} placebos cannot show more than rank 1 of {most + 1}."
        )


def _untrained(study: Study, results: Sequence[Result]) -> Iterable[str]:
    wan = PRESETS.get(study.pipeline.name or "")
    if wan is not None and wan.random and study.pipeline.path is None and not study.pipeline.parts:
        yield "The weights of this model were drawn at random: read these numbers as a test of the instrument, of no model."
    elif wan is None and study.pipeline.path is None and study.data.kind != "procedural":
        yield (
            "The shipped model was trained on rendered shapes. What it does with real pictures is what a model of its size "
            "can do; read these numbers as a test of the instrument, not of the method."
        )


def _name(result: Result) -> str:
    return f"{result.cell} {result.key}"


def _listed(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names)) if not isinstance(names, set) else sorted(names)
    return ", ".join(names[:LISTED]) + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")


PARTS = (
    _few, _no_value, _cannot_be_significant, _left_out, _from_baseline, _unpaired, _no_width, _no_spread, _sets, _placebos,
    _untrained,
)  # fmt: skip
