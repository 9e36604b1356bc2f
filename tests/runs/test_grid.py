"""Grids of study files: which cells they make, how those are called, and where a mistake in them is told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanlab.runs.document import StudyError, parse
from wanlab.runs.reading import parse_study
from wanlab.runs.spec import Cell, Study
from wanlab.runs.store import to_yaml

HEAD = """name: grid
data: {kind: procedural, n: 4}
metrics: [psnr]
cells:
  baseline:
"""


def cells(grid: str, *sets: str) -> dict[str, Cell]:
    """The cells of a grid, without the baseline."""
    study, _ = parse_study(HEAD + grid, sets)
    return {name: cell for name, cell in study.cells.items() if name != "baseline"}


def message(grid: str, *sets: str) -> str:
    with pytest.raises(StudyError) as caught:
        parse_study(HEAD + grid, sets, "grid.yaml")
    return str(caught.value)


def test_axes_are_multiplied_and_cells_are_named_by_their_values() -> None:
    made = cells("""
each: {note: grid}
axes:
  component: {ablate: [temporal, [text, image]]}
  window: {window: {all: null, early: "0:4"}}
  guidance: {sampler.guidance: [1.0, 3]}
""")
    assert list(made) == [
        f"{component}+{window}+guidance{guidance}"
        for component in ("temporal", "text+image")
        for window in ("all", "early")
        for guidance in ("1.0", "3")
    ]
    cell = made["text+image+early+guidance3"]
    axes = {"component": "text+image", "window": "early", "guidance": 3}
    assert cell == Cell(ablate=["text", "image"], window="0:4", sampler={"guidance": 3}, note="grid", axes=axes)
    assert made["temporal+all+guidance1.0"].window is None


def test_paths_reach_into_lists_and_axes_go_in_lockstep() -> None:
    made = cells("""
each: {edits: [{kind: zero}]}
axes:
  block: {edits.0.at: {down: "generator.down.0.temporal.attn.z", mid: "generator.mid.temporal.attn.z"}}
  factor: {edits.0.heads: [[0, 1], 3], edits.1: [{kind: scale, at: fusion.out, factor: 2}, {kind: zero, at: detail.gan}]}
  steps: {sampler.steps: [4, 8]}
zip: [[block, factor]]
""")
    assert list(made) == ["down+factor0-1+steps4", "down+factor0-1+steps8", "mid+factor3+steps4", "mid+factor3+steps8"]
    assert made["down+factor0-1+steps4"].edits == [
        {"kind": "zero", "at": "generator.down.0.temporal.attn.z", "heads": [0, 1]},
        {"kind": "scale", "at": "fusion.out", "factor": 2},
    ]
    assert made["mid+factor3+steps8"].edits[1] == {"kind": "zero", "at": "detail.gan"}


def test_entries_leave_cells_out_bring_them_back_and_set_more() -> None:
    grid = """
axes:
  component: {ablate: [temporal, fusion]}
  window: {window: ["0:2", "2:4"]}
exclude: [{component: fusion}]
include:
  - {component: fusion, window: "2:4", set: {note: back}}
  - {component: temporal, set: {sampler: {steps: 16}}}
"""
    made = cells(grid)
    assert list(made) == ["temporal+window0-2", "temporal+window2-4", "fusion+window2-4"]
    assert made["fusion+window2-4"].note == "back" and made["fusion+window2-4"].sampler.steps is None
    assert made["temporal+window0-2"].sampler.steps == 16


def test_placebos_are_cells_beside_what_they_are_placebos_of() -> None:
    made = cells("""  temporal: {ablate: temporal}
  early: {ablate: temporal, window: "0:2"}
placebo:
  - {of: temporal, draws: 2, seed: 3}
  - {of: temporal, draws: 1, window: "0:2"}
""")
    assert list(made)[2:] == ["placebo-temporal+draw0", "placebo-temporal+draw1", "placebo-temporal+window0-2+draw0"]
    second, early = made["placebo-temporal+draw1"], made["placebo-temporal+window0-2+draw0"]
    assert (second.placebo.draw, second.placebo.seed, second.pairs_with) == (1, 3, "temporal")  # type: ignore[union-attr]
    assert early.window == "0:2" and early.pairs_with == "early"
    assert "grid.yaml:6:15: placebo.of" in message("placebo: {of: []}\n")


@pytest.mark.parametrize(("more", "twin"), [("", None), ("sampler: {steps: 8}\n", "temporal+steps8")])
def test_a_placebo_stands_beside_a_cell_with_the_sampler_that_it_runs_under(more: str, twin: str | None) -> None:
    made = cells(f"""axes:
  part: {{ablate: [temporal, fusion]}}
  steps: {{sampler.steps: [4, 8]}}
placebo: {{of: temporal, draws: 1}}
{more}""")
    assert made["placebo-temporal+draw0"].pairs_with == twin


NUMBERS = list(range(1, 601))
AXES = """axes:
  component: {ablate: [temporal, fusion]}
  window: {window: ["0:2", "2:4"]}
"""


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (
            AXES + "exclude: [{component: tempral}]\n",
            ["9:23: exclude.0.component", "no value 'tempral' (did you mean 'temporal'?)"],
        ),
        (AXES + "exclude: [{compnent: temporal}]\n", ["9:12: exclude.0.compnent: no axis 'compnent' (did you mean 'component'?)"]),
        (AXES + "exclude: [{component: fusion}, {component: fusion, window: '0:2'}]\n", ["9:32: exclude.1: leaves nothing out"]),
        (AXES + "exclude: [{component: [fusion, temporal]}]\n", ["9:1: exclude: leaves out every cell"]),
        (
            AXES + "exclude: [{component: fusion}]\ninclude: [{component: fusion, set: {note: x}}]\n",
            ["10:11: include.0: no cell has"],
        ),
        (AXES + "zip: [[component, windw]]\n", ["9:19: zip.0.1: no axis 'windw' (did you mean 'window'?)"]),
        (AXES.replace('"2:4"]', '"2:4", "4:6"]') + "zip: [[component, window]]\n", ["9:7: zip.0", "component 2, window 3"]),
        (
            "axes:\n  a: {sampler.stps: [1, 2]}\n",
            ["7:7: axes.a.sampler.stps: no setting 'stps' of a cell below sampler", "'steps'"],
        ),
        ("axes:\n  a: {ablat: [text]}\n", ["7:7: axes.a.ablat: no setting 'ablat' of a cell (did you mean 'ablate'?)"]),
        (
            "axes:\n  a: {sampler.steps: [4, 0]}\n",
            ["7:26: axes.a.sampler.steps.1: input should be greater than or equal to 1, got 0"],
        ),
        ("axes:\n  a: {sampler.steps: {x: four}}\n", ["7:26: axes.a.sampler.steps.x: input should be a valid integer"]),
        ("axes:\n  a: {sampler.steps: []}\n", ["7:22: axes.a.sampler.steps: expected a list of values"]),
        ("axes:\n  a: {window: ['0:x']}\n", ["7:16: axes.a.window.0"]),
        ("axes:\n  a: {ablate: [text, text]}\n", ["7:22: axes.a.ablate.1: makes the name 'text', as value 0 does"]),
        (
            "axes:\n  a: {ablate: [text, image], note: [x]}\n",
            ["7:3: axes.a: paths of one axis need equally many values: ablate 2, note 1"],
        ),
        ("axes:\n  a: {ablate: [text]}\n  b: {ablate: [image]}\n", ["8:7: axes.b.ablate: the axis a sets ablate too"]),
        ("axes:\n  a: {edits.1.kind: [zero, mean]}\n", ["7:22: axes.a.edits.1.kind.0: 1 is no place in a list of 0"]),
        (
            "  text: {}\naxes:\n  a: {ablate: [text]}\n",
            ["8:16: axes.a.ablate.0: makes the cell 'text', which stands in cells already"],
        ),
        ("each: {abate: text}\naxes:\n  a: {note: [x, y]}\n", ["6:8: each.abate: unknown key (did you mean 'ablate'?)"]),
        ("axes:\n  a: {pairs_with: {x: basline}}\n", ["7:23: axes.a.pairs_with.x: no cell 'basline' (did you mean 'baseline'?)"]),
        ("axes:\n  a: {note: [x], window: ['0:2']}\n", ["7:27: axes.a.window.0: a window limits `ablate`"]),
        (f"axes:\n  a: {{sampler.steps: {NUMBERS}}}\n  b: {{sampler.guidance: {NUMBERS}}}\n", ["360,000 cells"]),
    ],
)  # fmt: skip
def test_mistakes_are_told_where_they_stand(grid: str, expected: list[str]) -> None:
    said = message(grid)
    for part in expected:
        assert part in said


def test_a_mistake_that_many_cells_share_is_told_once() -> None:
    said = message("axes:\n  a: {sampler.steps: [0]}\n  b: {window: [1, 2, 3]}\n  c: {ablate: [text, image]}\n")
    assert said.count("grid.yaml:") == 1


def test_settings_reach_into_axes() -> None:
    sets = ["axes.guidance.sampler.guidance=[2.0]", "axes.component.ablate.1=text"]
    made = cells(AXES + "  guidance: {sampler.guidance: [1.0]}\n", *sets)
    assert next(iter(made)) == "temporal+window0-2+guidance2.0" and "text+window0-2+guidance2.0" in made
    said = message(AXES, "axes.component.ablat=[text]")
    assert "--set axes.component.ablat=[text]: axes.component.ablat: no setting 'ablat'" in said


def test_long_names_are_cut_and_stay_different() -> None:
    made = cells("axes:\n  site: {edits.0: {" + ", ".join(f"{'x' * 120}{i}: {{kind: zero, at: a}}" for i in range(3)) + "}}\n")
    assert len(made) == 3 and all(len(name) <= 100 for name in made)


def test_ten_thousand_cells_are_one_study() -> None:
    made = cells(
        "axes:\n"
        f"  head: {{edits.0.heads: {list(range(40))}}}\n"
        f"  block: {{edits.0.at: {[f'dit.blocks.{i}.attn.z' for i in range(25)]}}}\n"
        f"  window: {{edits.0.steps: {[f'{i}:{i + 4}' for i in range(0, 40, 4)]}}}\n"
        "each: {edits: [{kind: zero}]}\n"
    )
    assert len(made) == 10_000 and len({str(cell.edits) for cell in made.values()}) == 10_000


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True), min_size=1, max_size=3))
def test_a_grid_is_the_product_and_its_resolved_form_reads_back(sizes: list[list[int]]) -> None:
    paths = ["sampler.steps", "sampler.guidance", "edits.0.heads"][: len(sizes)]
    lines = [f"  x{i}: {{{path}: {[value + 1 for value in values]}}}\n" for i, (path, values) in enumerate(zip(paths, sizes))]
    study, _ = parse_study(HEAD + "each: {edits: [{kind: zero, at: fusion.out}]}\naxes:\n" + "".join(lines))
    wanted = 1
    for values in sizes:
        wanted *= len(values)
    assert len(study.cells) == wanted + 1
    again = Study.model_validate(parse(to_yaml(study.resolved())).data)
    assert again == study and again.hash == study.hash
