"""What the report warns of: each sentence names its numbers, and stands only where it is true."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.runs.test_stats import Mean, scores
from wanlab.runs.cautions import cautions
from wanlab.runs.inference import Resampler
from wanlab.runs.reading import parse_study
from wanlab.runs.stats import Result, analyse

TEXT = "name: t\ndata: {kind: procedural}\nmetrics: [score]\ncells: {baseline: , a: , b: , c: }\n"


def study(text: str = TEXT, *sets: str):
    return parse_study(text, sets)[0]


def results(n: int, cells: int) -> list[Result]:
    """A study in which every cell rises in every sample."""
    base = np.random.default_rng(n).normal(size=n)
    table = {"baseline": scores(base)} | {f"c{i}": scores(base + np.linspace(1, 2, n) + i) for i in range(cells)}
    return analyse(table, "baseline", [Mean()], Resampler())


def test_enough_samples_give_no_warning() -> None:
    assert cautions(study(), results(24, 5)) == []


@pytest.mark.parametrize("n", [5, 11])
def test_few_samples_are_named(n: int) -> None:
    (sentence,) = [s for s in cautions(study(), results(n, 1)) if "rough guide" in s]
    assert f"n = {n} " in sentence and "n = 12" in sentence


def test_a_family_that_cannot_be_significant_is_told_with_what_would_do() -> None:
    table = results(8, 7)
    (sentence,) = [s for s in cautions(study(), table) if "smallest p" in s]
    assert not any(r.significant for r in table)
    assert "n = 8 with 7 comparisons" in sentence and "0.0078" in sentence and "n = 9 would do" in sentence
    assert all(r.significant for r in results(9, 7)[1:]) and not any("smallest p" in s for s in cautions(study(), results(9, 7)))


@pytest.mark.parametrize(("n", "cells", "told", "then"), [
    (10, 25, None, (10, 10_000)),
    (10, 40, "n = 11", (11, 10_000)),
    (11, 60, "n = 12", (12, 10_000)),
    (12, 110, "n = 13", (13, 10_000)),
    (12, 360, "n = 14", (14, 10_000)),
    (13, 204, None, (13, 10_000)),
    (13, 205, "n = 14", (14, 10_000)),
    (14, 500, None, (14, 10_000)),
    (14, 501, "stats.resamples of 12,000", (14, 12_000)),
    (13, 600, "n = 14 with stats.resamples of 13,000", (14, 13_000)),
    (40, 60_000, "nothing but a smaller family", None),
])  # fmt: skip
def test_what_is_said_to_do_does(n: int, cells: int, told: str | None, then: tuple[int, int] | None) -> None:
    one = Result("c", "m", "m", 0.0, -1, 1, 0.1, 0.0, 0.2, p=0.5, p_adjusted=1.0, n=n, pairs=n, family="m")
    assert [f"({told} would do)" in s for s in cautions(study(), [one] * cells) if "smallest p" in s] == ([True] if told else [])
    if then is not None:
        units, resamples = then
        assert Resampler(resamples).smallest_p(units) * cells < 0.05


def test_too_few_resamples_for_a_large_family_are_told() -> None:
    many = [
        Result(f"c{i}", "m", "m", 0.0, -1, 1, 0.1, 0.0, 0.2, p=1 / 10_001, p_adjusted=1.0, n=100, pairs=100) for i in range(600)
    ]
    (sentence,) = [s for s in cautions(study(), many) if "smallest p" in s]
    assert "600 comparisons" in sentence and "stats.resamples of 13,000 would do" in sentence
    assert Resampler(13_000).smallest_p(100) * 600 < 0.05


def test_differences_on_fewer_pairs_are_told() -> None:
    base, other = np.arange(20.0), np.arange(20.0) + np.linspace(1, 2, 20)
    base[:4] = np.nan
    found = cautions(study(), analyse({"baseline": scores(base), "a": scores(other)}, "baseline", [Mean()], Resampler()))
    assert any("a score on 16 of 20." in sentence for sentence in found)


def test_flat_columns_sets_and_placebos_have_their_sentence() -> None:
    flat = Result("a", "m", "m", 1.0, 1.0, 1.0, n=20)
    distance = Result("a", "fvd[x]", "fvd", 1.0, 0.5, 1.5, 0.1, 0.0, 0.2, 0.5, 0.5, n=20, pairs=20, statistic="distance")
    ranked = Result("a", "m", "m", 1.0, 0.5, 1.5, 0.3, 0.1, 0.5, 1e-4, 1e-4, n=20, pairs=20, placebos=(0.1, -0.2))
    said = [[s for s in cautions(study(), [result]) if "Left out" not in s] for result in (flat, distance, ranked)]
    assert "no width" in said[0][0] and "rank 1 of 3" in said[2][0]
    assert "n = 20" in said[1][0] and "(15 here)" in said[1][0]
    lone = Result("a", "fvd[x]", "fvd", math.nan, math.nan, math.nan, n=3, statistic="distance", fewest=4)
    assert any("n = 3, and such a set distance needs n = 4" in sentence for sentence in cautions(study(), [lone]))


def test_the_reference_and_real_pictures_are_told() -> None:
    real = TEXT.replace("{kind: procedural}", "{kind: image, path: x.png, prompts: a}")
    judged = [replace(r, from_baseline=True) for r in results(24, 1)]
    found = cautions(study(real), judged)
    assert len(found) == 2 and "clip of baseline" in found[0] and "so score have no difference" in found[0]
    assert "rendered shapes" in found[1]
    assert not any("clip of baseline" in s for s in cautions(study(real), results(24, 1)))
    assert cautions(study(), []) == ["Left out, because real pictures come without the truth that they need: score."]
