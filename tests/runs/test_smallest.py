"""The smallest studies: whatever was measured, and of however few samples, the report is written and says what is lacking."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.runs.toy import STUDY, Toy, load_toy
from wanlab.measure import Batch, Features, MissingWeights, SetMeasure, available, info, resolve, stored
from wanlab.measure.sets import DISTANCES
from wanlab.runs.cautions import cautions
from wanlab.runs.inference import Resampler
from wanlab.runs.reading import parse_study
from wanlab.runs.stats import Result, Scores, analyse
from wanlab.runs.study import report_study

NEIGHBOURLY = ("precision", "recall", "density", "coverage")


def distances() -> list[SetMeasure]:
    """All distances between sets, over features that need no network."""
    source = Features(lambda video: torch.cat([video.mean((1, 3, 4)), video.std((1, 3, 4))], 1))
    return [
        SetMeasure(name, f"{name}[toy]", better, frozenset({"reference"}), source, of(1), bounds, fewest)
        for name, (better, bounds, fewest, of, _) in DISTANCES.items()
    ]


def resolve_small(names: Sequence[str], device: str = "cpu") -> list[Any]:
    sets = {one.key: one for one in distances()}
    return [sets.get(name) or resolve([name], device)[0] for name in names]


def rows(root: Path) -> dict[tuple[str, str], dict[str, str]]:
    """results.csv: (cell, short name of a metric) -> its line."""
    with open(root / "results.csv", newline="") as file:
        return {(line["cell"], line["metric"].partition("[")[0]): line for line in csv.DictReader(file)}


@pytest.mark.parametrize("n", [1, 2, 6, 7])
def test_a_study_of_few_samples_ends_with_its_report(run: Callable[..., Any], n: int) -> None:
    sets = ("seeds=[0]", f"data.n={n}", f"metrics=[psnr, flicker, {', '.join(DISTANCES)}]", "report.videos=0")
    text = STUDY.partition("  both:")[0] + "metrics: [psnr]\nreport: {figures: %s}\n" % ("[forest]" if n == 2 else "[]")
    root, outcome = run("out", *sets, text=text, resolve=resolve_small, report=True)
    found, page = rows(root), (root / "report" / "report.html").read_text()
    assert len(outcome.done) == 3 and not outcome.failed
    for name in ("psnr", "flicker"):
        assert found["detail", name]["value"] and found["detail", name]["delta"] and found["detail", name]["n"] == str(n)
    for name in DISTANCES:
        wanted = n >= (7 if name in NEIGHBOURLY else 4)
        assert bool(found["detail", name]["value"]) == wanted, name
        assert found["detail", name]["n"] == str(n)
    assert ("such a set distance needs n = 4" in page) == (n < 4)
    assert ("No value for precision, recall, density, coverage" in page and "needs n = 7" in page) == (n < 7)


@pytest.mark.slow
def test_every_metric_that_a_study_can_name_bears_one_sample(run: Callable[..., Any]) -> None:
    names = [name for name in available() if not info(name).weights]
    text = STUDY.replace("n: 5", "n: 1").replace("psnr, flicker, colour_distance", ", ".join(names))
    root, outcome = run("out", "seeds=[0]", text=text, resolve=resolve, load=load_toy(Toy(size=176)), report=True)
    assert not outcome.failed and len((root / "results.csv").read_text().splitlines()) == 1 + 5 * len(names)
    assert (root / "report" / "report.html").exists()


def cell(features: dict[str, torch.Tensor], values: np.ndarray) -> Scores:
    n = len(values)
    return Scores(np.arange(n), np.zeros(n, int), {"score": values}, features)


@pytest.mark.parametrize("n", range(1, 9))
@pytest.mark.parametrize("kind", ["apart", "constant", "far", "nan", "one nan", "huge"])
def test_no_values_are_too_odd_for_the_table(n: int, kind: str) -> None:
    """Whatever features and values there are, each number is a number or NaN, and no p is 0."""
    from tests.runs.test_stats import Mean

    rng = torch.Generator().manual_seed(n)
    reference = torch.randn(n, 4, generator=rng)
    base = reference + 0.1 * torch.randn(n, 4, generator=rng)
    odd = {"apart": torch.randn(n, 4, generator=rng), "constant": torch.ones(n, 4), "far": reference + 50,
           "nan": torch.full((n, 4), torch.nan), "one nan": base.clone(), "huge": reference * 1e20}[kind]  # fmt: skip
    if kind == "one nan":
        odd[0, 0] = torch.nan
    measures = distances()

    def scores(rows: torch.Tensor) -> Scores:
        pair = {"video": rows, "reference": reference}
        return cell({f"{one.key}.{which}": pair[which] for one in measures for which in pair}, rows[:, 0].double().numpy())

    found = analyse({"baseline": scores(base), "odd": scores(odd)}, "baseline", [*measures, Mean()], Resampler())
    assert len(found) == 2 * (len(measures) + 1)
    assert not any(r.p == 0 or r.p_adjusted == 0 for r in found)
    assert all(np.isfinite(r.value) for r in found if r.cell == "baseline" and r.n >= max(r.fewest, 1))
    study = parse_study("name: t\ndata: {kind: procedural}\nmetrics: [score]\ncells: {baseline: , odd: }\n", ())[0]
    said = cautions(study, found)
    unknown = [r for r in found if not np.isfinite(r.value) and (r.n == 0 or r.n < r.fewest)]
    assert bool(unknown) == any(sentence.startswith("No value for") for sentence in said)


def test_each_distance_needs_as_many_samples_as_it_says() -> None:
    for measure in distances():
        x, y = torch.randn(2, measure.fewest, 4, generator=torch.Generator().manual_seed(0))
        assert np.isfinite(measure.distance(x, y))
        if measure.key != "jedi":  # which has a value of one sample, and it says nothing
            with pytest.raises(ValueError, match="at least"):
                measure.distance(x[1:], y[1:])
        x, y = torch.randn(2, measure.fewest_units, 4, generator=torch.Generator().manual_seed(0))
        measure.interval(x, y)
    assert {one.key: one.fewest_units for one in distances()} == {name: 7 if name in NEIGHBOURLY else 4 for name in DISTANCES}


def test_a_share_at_its_bound_has_no_interval_and_no_p_of_nothing() -> None:
    """Every sample of one cell lies among the reference, none of the other: no sample left out changes that."""
    rng = torch.Generator().manual_seed(0)
    reference = torch.randn(8, 16, generator=rng)
    near, far = reference + 0.01 * torch.randn(8, 16, generator=rng), reference + 50
    shares = [one for one in distances() if one.key in NEIGHBOURLY]

    def scores(rows: torch.Tensor) -> Scores:
        return cell({f"{one.key}.{which}": x for one in shares for which, x in (("video", rows), ("reference", reference))},
                    np.zeros(8))  # fmt: skip

    found: list[Result] = [r for r in analyse({"baseline": scores(near), "far": scores(far)}, "baseline", shares, Resampler())
                           if r.cell == "far" and r.key != "density"]  # fmt: skip
    assert [r.delta for r in found] == [-1.0] * 3 and [r.p for r in found] == [Resampler().smallest_p(8)] * 3
    assert np.isnan([(r.delta_low, r.delta_high, r.ci_low, r.ci_high) for r in found]).all()
    study = parse_study("name: t\ndata: {kind: procedural}\nmetrics: [precision]\ncells: {baseline: , far: }\n", ())[0]
    said = [sentence for sentence in cautions(study, found) if "far precision, far recall, far coverage" in sentence]
    assert len(said) == 2 and any("smallest that sign flips" in sentence for sentence in said)


def test_a_report_is_made_again_without_the_networks_that_measured(run: Callable[..., Any]) -> None:
    """Features and values are kept, so a machine without the published weights can report them."""
    measures = {"psnr": resolve(["psnr"])[0], "fvd": distances()[0], "fvd[videogpt]": distances()[0]}
    measures["fvd[videogpt]"] = replace(distances()[0], key="fvd[videogpt]", name="fvd[videogpt|16f|s1|i3d:1234]")
    sets = ("seeds=[0]", "data.n=4", "metrics=[psnr, fvd, 'fvd[videogpt]']", "report.videos=0")
    text = STUDY.partition("  both:")[0] + "metrics: [psnr]\nreport: {figures: []}\n"
    root, _ = run("out", *sets, text=text, resolve=lambda names, device: [measures[name] for name in names], report=True)
    before = (root / "results.csv").read_bytes()
    (root / "results.csv").unlink()
    with pytest.raises(MissingWeights):
        resolve(["fvd[videogpt]"])
    report_study(root)
    assert (root / "results.csv").read_bytes() == before and rows(root)["detail", "fvd"]["delta"]


def test_stored_measures_are_those_that_measured() -> None:
    x, y = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0)).double()
    (fvd, unbiased), ours = stored(["fvd[styleganv]", "fvd"]), distances()[0]
    assert unbiased.distance(x, y) == ours.distance(x, y) != fvd.distance(x, y) and fvd.key == "fvd[styleganv]"
    names = [name for name in available() if not info(name).weights]
    for one, name in zip(stored(names), names, strict=True):
        assert (one.key, one.kind, one.higher_is_better, one.needs) == (name, *info(name)[2:0:-1], info(name).needs)
    with pytest.raises(ValueError, match="without its network"):
        fvd.features(Batch(torch.rand(2, 8, 3, 16, 16)))
