"""Study files: what they may say, and how mistakes are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.runs import toy
from wanlab.measure import resolve
from wanlab.runs.document import StudyError, parse
from wanlab.runs.files import to_yaml
from wanlab.runs.reading import load_study, parse_study
from wanlab.runs.spec import Study, schema_text

ROOT = Path(__file__).resolve().parents[2]
GOOD = """
name: grid
data: {kind: procedural, n: 4}
cells:
  baseline:
  text: {ablate: text}
metrics: [psnr]
"""


def message(text: str, *sets: str) -> str:
    with pytest.raises(StudyError) as caught:
        parse_study(text, sets, "grid.yaml")
    return str(caught.value)


def test_all_mistakes_are_told_at_once_with_their_places() -> None:
    text = """name: grid
data: {kind: procedural, n: 0}
sampler: {stps: 8}
cells:
  baseline:
  text: {ablat: [text]}
metrics: [psnr, psnr]
seeds: [0, x]
report: {videos: -1, width: imcl}
baseline: basline
"""
    said = message(text)
    places = [line.split(": ")[0] for line in said.splitlines() if line.startswith("grid.yaml:")]
    assert places == ["grid.yaml:2:29", "grid.yaml:3:11", "grid.yaml:6:10", "grid.yaml:7:17", "grid.yaml:8:12", "grid.yaml:9:18",
                      "grid.yaml:9:29", "grid.yaml:10:11"]  # fmt: skip
    assert "sampler.stps: unknown key (did you mean 'steps'?)" in said
    assert "cells.text.ablat: unknown key (did you mean 'ablate'?)" in said
    lines = said.splitlines()
    at = lines.index("    sampler: {stps: 8}")
    assert lines[at + 1].index("^") == lines[at].index("stps")


def test_a_cell_of_a_broken_grid_is_not_called_unknown() -> None:
    text = GOOD + "axes: {steps: {sampler.steps: [4, 8]}}\nbaseline: steps4\n"
    assert parse_study(text)[0].baseline == "steps4"
    for wrong in ("sampler.steps: []", "sampler.stps: [4, 8]"):
        said = message(text.replace("sampler.steps: [4, 8]", wrong))
        assert "grid.yaml:8:" in said and "no cell of this name" not in said


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "a: 1\nb: {c: 1, c: 2}\na: 4\n",
            ["grid.yaml:2:11: b.c: this key stands twice (first in line 2)", "grid.yaml:3:1: a: this key"],
        ),
        ("a: [1, 2\n", ["not YAML"]),
        (GOOD.replace("[psnr]", "[psnr, fvd[videogpt]]"), ["grid.yaml:7:20: ", "not YAML: ", 'in quotes: "fvd[videogpt]"']),
        ("", ["a study is a mapping of keys, this file holds nothing"]),
        ("- 1\n", ["this file holds list"]),
        (GOOD.replace("procedural", "procedurl"), ["3:14: data.kind: unknown kind 'procedurl'", "did you mean 'procedural'?"]),
        (GOOD.replace("kind: procedural, ", ""), ["the key 'kind' is missing"]),
        (GOOD.replace("{ablate: text}", "{placebo: {of: text, draws: 5}}"), ["draws: unknown key; several draws are said once"]),
        (GOOD.replace("n: 4", "m: 4"), ["data.m: unknown key; there are kind, split, n, seed, max_objects"]),
        (GOOD.replace("n: 4", "n: 4, split: tst"), ["'tst' is not one of train, val, test (did you mean 'test'?)"]),
        (GOOD + "baseline: basline\n", ["baseline: no cell of this name (did you mean 'baseline'?)"]),
        (GOOD + "seeds: [1, 1]\n", ["seeds.1: 1 stands twice"]),
        (GOOD.replace("{ablate: text}", "{pairs_with: txt}"), ["cells.text.pairs_with: no cell 'txt' (did you mean 'text'?)"]),
        (GOOD.replace("{ablate: text}", "{window: '0:2'}"), ["6:18: cells.text.window: a window limits `ablate`"]),
        (GOOD.replace("metrics: [psnr]", ""), ["the key 'metrics' is missing"]),
        (GOOD.replace("  text:", "  te/xt:"), ["a cell's name is made of"]),
        (GOOD.replace("  text:", f"  {'x' * 201}:"), ["a cell's name has at most 200 letters, this one has 201"]),
        (GOOD.replace("name: ", "name: " + "x" * 200), ["name: string should have at most 200 characters"]),
        (
            GOOD.replace("{kind: procedural, n: 4}", "{kind: image, path: a.png, prompts: [x]}") + "reference: data\n",
            ["has no true clip"],
        ),
    ],
)
def test_mistakes(text: str, expected: list[str]) -> None:
    said = message(text)
    for part in expected:
        assert part in said


SECOND = {"fvd": "fvd[motionnet]", "lpips": "lpips[home-squeeze]", "warp_error_self": "warp_error[self]"}


@pytest.mark.parametrize(("one", "other"), [*SECOND.items(), *((full, short) for short, full in SECOND.items())])
def test_a_metric_under_two_names_is_told_where_the_second_stands(one: str, other: str) -> None:
    text = toy.STUDY.replace("[psnr, flicker, colour_distance]", f'[psnr, "{one}", flicker, "{other}"]')
    with pytest.raises(StudyError) as caught:
        toy.bench(text=text)
    place = f"13:{len(one) + 30}: metrics.3: "
    assert f"{place}'{other}' is another name of '{one}', which is measured already" in str(caught.value)


def test_a_full_name_is_another_name_of_the_short_one_and_other_choices_are_not() -> None:
    (full,) = (measure.name for measure in resolve(["lpips"]))
    with pytest.raises(StudyError) as caught:
        toy.bench(f"metrics={json.dumps(['lpips', full])}")
    assert "|net:" in full and f"metrics.1: {full!r} is another name of 'lpips'" in str(caught.value)
    metrics = ["fvd", "fvd[motionnet|s2]", "warp_error", "warp_error[dis]", "warp_error_self"]
    assert [measure.key for measure in toy.bench(f"metrics={json.dumps(metrics)}").measures] == metrics


def test_yaml_is_1_2() -> None:
    study, _ = parse_study(GOOD + "sampler: {guidance: 1e-1, negative: no}\n")
    assert study.sampler.guidance == 0.1 and study.sampler.negative == "no"


def test_settings_come_before_validation_and_are_named() -> None:
    study, _ = parse_study(GOOD, ["data.n=9", "cells.none={swap: {align: none}}", "metrics.0=ssim"])
    assert study.data.n == 9 and study.cells["none"].swap == {"align": "none"} and study.metrics == ["ssim"]
    said = message(GOOD, "data.n=many", "report.vidoes=3")
    assert (
        "--set data.n=many: data.n: " in said
        and "--set report.vidoes=3: report.vidoes: unknown key (did you mean 'videos'?)" in said
    )
    assert "expected the form" in message(GOOD, "data.n")
    assert "is not an index" in message(GOOD, "metrics.7=x")
    assert 'in quotes: "fvd[videogpt]"' in message(GOOD, "metrics=[psnr, fvd[videogpt]]")
    assert "not YAML" in message(GOOD, "metrics=[psnr") and "not YAML" in message(GOOD, "metrics={psnr")


def test_a_resolved_study_reads_back_to_the_same_study() -> None:
    study, _ = parse_study(GOOD + "reference: baseline\ncache: {disk: x}\n")
    again = Study.model_validate(parse(to_yaml(study.resolved())).data)
    assert again == study and again.hash == study.hash


def test_the_hash_ignores_what_cannot_change_a_result() -> None:
    study, _ = parse_study(GOOD)
    same, _ = parse_study(GOOD + "report: {videos: 1}\ncache: {memory_gib: 0}\ntitle: another\nseconds: {text: 1.0}\n")
    other, _ = parse_study(GOOD + "batch: 7\n")
    assert study.hash == same.hash != other.hash


def test_a_missing_file_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "grid.yaml").write_text(GOOD)
    with pytest.raises(StudyError, match=r"no such file \(did you mean '.*grid.yaml'\?\)"):
        load_study(tmp_path / "gird.yaml")


def test_the_committed_schema_is_the_current_one() -> None:
    path = ROOT / "experiments" / "study.schema.json"
    assert json.loads(path.read_text()) == json.loads(schema_text()), "run: wanlab schema --out experiments/study.schema.json"


CELLS = "cells: {baseline: , text: , head0: , head1: }"
FAMILIES = f"name: t\ndata: {{kind: procedural}}\nmetrics: [psnr]\n{CELLS}\nstats: {{family: %s}}\n"


def test_a_study_names_its_families() -> None:
    stats = parse_study(FAMILIES % "{heads: head*, parts: [text, base*]}")[0].stats
    assert [stats.families_of(cell) for cell in ("text", "head0", "head1")] == [["parts"], ["heads"], ["heads"]]
    assert stats.corrected_over == "the cells of a family (heads, parts) under a metric"


@pytest.mark.parametrize(("family", "told"), [
    ("{heads: head*}", r"5:\d+: stats.family: in no family: text"),
    ("{heads: [head*, text], parts: [text, head1]}", r"5:\d+: stats.family.parts: in the family 'heads' too: text, head1"),
    ("{heads: [head*, txt], parts: text}", r"5:33: stats.family.heads.1: no cell is called 'txt' \(did you mean 'text'"),
    ("metrik", r"5:17: stats.family: expected metric, study, or names with lists of cells \(did you mean 'metric'"),
    ("{}", "expected metric, study, or names"), ("{heads: []}", "expected metric, study, or names"),
])  # fmt: skip
def test_families_that_do_not_divide_the_cells_are_told(family: str, told: str) -> None:
    with pytest.raises(StudyError, match=told):
        parse_study(FAMILIES % family)


@pytest.mark.parametrize("path", sorted((ROOT / "experiments").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies_are_valid_and_open_with_claim_command_and_minutes(path: Path) -> None:
    study, _ = load_study(path)
    opening = path.read_text().split("\nname:")[0]
    assert study.name == path.stem
    assert opening.startswith("# yaml-language-server: $schema=study.schema.json")
    assert all(f"{word}:" in opening for word in ("Claim", "Command", "Minutes"))
    assert f"wanlab run experiments/{path.name}" in opening and ("Figures:" in opening or "Seen" in opening)
    assert any(maker in opening for maker in ("AMD", "Intel", "NVIDIA", "Apple")), "figures without the machine"


def test_the_width_of_figures_goes_by_the_name_of_a_venue() -> None:
    text = "name: t\ndata: {kind: procedural}\nmetrics: [psnr]\ncells: {baseline: }\nreport: {width: %s}\n"
    assert [parse_study(text % width)[0].report.width for width in ("icml", "cvpr_page", "4.5")] == [3.25, 6.875, 4.5]
    with pytest.raises(StudyError, match=r"report.width: .*neither inches nor one of neurips, .*got 'nature'"):
        parse_study(text % "nature")
