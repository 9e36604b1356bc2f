"""Study files and settings, bad ones: one message with the places, never a traceback, nothing that never ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.hostile.cases import answer, every, full, within
from tests.hostile.studies import PLAIN, settings_given, studies
from tests.runs.test_spec import GOOD
from wanlab.runs.document import LARGEST, StudyError, parse, read
from wanlab.runs.outline import load_outline, workload
from wanlab.runs.reading import parse_study

ROOT = Path(__file__).resolve().parents[2]


@full
def test_study_files(whole: bool) -> None:
    outline = load_outline(ROOT / "experiments" / "scale" / "wan14b.outline.yaml")

    def plan(text: str) -> object:
        """The study, and what it would take on an outline that knows few of its names."""
        study, document = parse_study(text)
        return workload(study, document, outline, outline.device("h200"), 4)

    every("study files", whole, studies(), lambda text: answer(lambda: plan(text), StudyError))


@full
def test_settings(whole: bool) -> None:
    text = PLAIN[0][PLAIN[0].index("\nname:") :]
    every("settings", whole, settings_given(), lambda setting: answer(lambda: parse_study(text, [setting]), StudyError))


def refused(text: str, *sets: str) -> str:
    """The message with which a study is refused, at once."""
    with within(10), pytest.raises(StudyError) as caught:
        parse_study(text, sets)
    return str(caught.value)


@pytest.mark.parametrize(
    "tagged", ["!!python/object/apply:os.system [echo]", "!!int abc", "!!set {a, b}", "!mine x", "!!binary aGk="]
)
def test_tags_are_refused_where_they_stand(tagged: str) -> None:
    assert "(text):8:8: (file): a tag (!...) is not read here" in refused(GOOD + f"title: {tagged}\n")


def test_many_seeds_are_looked_through_at_once() -> None:
    seeds = ", ".join(map(str, range(30_000)))
    assert len(parse_study(GOOD + f"seeds: [{seeds}]\n")[0].seeds) == 30_000
    assert "seeds.30000: 7 stands twice" in refused(GOOD + f"seeds: [{seeds}, 7]\n")


@pytest.mark.parametrize(("more", "expected"), [
    ("report: {fps: 1.0e+300}\n", "report.fps"), ("report: {fps: 1.0e-300}\n", "report.fps"),
    ("report: {fps: .nan}\n", "report.fps"), ("pipeline: {name: wan2.1-t2v-1.3b, frames: 1000000001}\n", "pipeline.frames"),
])  # fmt: skip
def test_sizes_that_nobody_means_are_refused(more: str, expected: str) -> None:
    assert expected in refused(GOOD + more)


def test_a_word_with_an_exclamation_mark_and_a_date_are_words() -> None:
    study, _ = parse_study(GOOD + 'title: "!look"\nsampler: {negative: 2020-01-01}\n')
    assert study.title == "!look" and study.sampler.negative == "2020-01-01"


def test_aliases_that_unfold_without_end_are_refused_before_they_do() -> None:
    laughs = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))
    assert "its aliases stand for more than 100,000 values" in refused("a0: &a0 [x, x]\n" + laughs + GOOD)
    assert "nothing within itself" in refused(GOOD + "title: &a [*a]\n")
    assert "nothing within itself" in refused(GOOD + "title: &a {b: *a}\n")


def test_an_alias_is_what_it_stands_for() -> None:
    study, _ = parse_study(GOOD.replace("{ablate: text}", "&t {ablate: text}\n  again: *t"))
    assert study.cells["again"] == study.cells["text"]


@pytest.mark.parametrize(
    "text", [GOOD + "title: " + "[" * 100 + "]" * 100, GOOD + "title: " + "[" * 5000, "- " * 300, "{a: " * 3000]
)
def test_depth_is_bounded(text: str) -> None:
    said = refused(text)
    assert "nested too deeply" in said or "not YAML" in said


def test_numbers_without_end_and_letters_that_are_none_are_told() -> None:
    assert "a number of 5,000 digits" in refused(GOOD + f"batch: {'9' * 5000}\n")
    assert "the character U+0000 is no text" in refused(GOOD + 'title: "a\\0b"\n')
    assert "the character U+D800 is no text" in refused(GOOD + 'title: "\\ud800"\n')
    assert "--set title=" in (said := refused(GOOD, 'title="\\ud800"')) and "U+D800 is no text" in said
    assert "¹: unknown key" in refused(GOOD, "¹.x=1")


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("data.n=1000000000000", "less than or equal to 1000000"),
        ("sampler.steps=1000000000", "less than or equal to 10000"),
        ("sampler.guidance=.inf", "finite number"),
        ("sampler.guidance=.nan", "finite number"),
        ("stats.resamples=1000000000000", "1000000"),
        ("placebo={of: text, draws: 1000000000}", "less than or equal to 10000"),
        ("seeds=[99999999999999999999]", "less than 4294967296"),
        ("data.seed=-1", "greater than or equal to 0"),
        ("cache.memory_gib=.inf", "finite number"),
        ("report.fps=.nan", "finite number"),
        ("seconds={text: -1}", "greater than or equal to 0"),
        ("cells=[a]", "valid dictionary"),
        ("cells={a: b}", "cells.a"),
    ],
)
def test_what_would_never_end_or_means_nothing_is_refused_by_its_number(setting: str, expected: str) -> None:
    assert expected in refused(GOOD, setting)


def test_a_grid_beside_cells_that_are_none_tells_both() -> None:
    said = refused(GOOD.replace("cells:\n  baseline:\n  text: {ablate: text}", "cells: all") + "placebo: {of: text}\n")
    assert "cells: input should be a valid dictionary" in said
    grid = GOOD + "axes: {steps: {sampler.steps: [4, 8]}}\ninclude: [{steps: 4, set: fast}]\n"
    assert "include.0.set: expected settings of a cell" in refused(grid)


def test_a_study_in_one_long_line_is_shown_around_its_mistakes() -> None:
    data = parse(PLAIN[0]).data | {"metrics": ["psnr", 5]}
    said = refused(json.dumps(data))
    assert "metrics.1: input should be a valid string" in said and len(said) < 1000
    line, mark = said.splitlines()[-2:]
    assert line[mark.index("^")] == "5"


def test_files_that_are_no_settings_are_refused_by_their_size(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    with open(large, "wb") as stream:
        stream.truncate(LARGEST + 2)
    for path in (large, Path("/dev/zero")):
        with within(), pytest.raises(StudyError, match="more than 32 MiB"):
            read(path)
