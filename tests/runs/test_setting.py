"""Cells on a loaded pipeline: what a window and a branch limit, and what they cannot."""

from __future__ import annotations

import pytest

from tests.runs.toy import STUDY, bench
from wanlab.graph import edits_by_node
from wanlab.runs.document import StudyError

EARLY = "  early: {ablate: generator, window: '0:2', branch: cond}"
GRID = STUDY.replace("  sharp: {swap: {detail: sharp}, pairs_with: detail}", EARLY)


def test_a_window_limits_the_edits_of_a_component_and_nothing_else() -> None:
    cells = bench(text=GRID).plan.cells
    (edit,) = cells["early"].edits
    assert edit.where.steps == ("0:2",) and edit.where.branch == ("cond",)
    assert all(edit.where.steps is None for edit in cells["both"].edits)
    changed = {node for node, key in cells["early"].keys[0].items() if key != cells["baseline"].keys[0][node]}
    assert changed == {"denoise", "upsample.0", "upsample.1", "detail"}


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (
            "{ablate: [generator, detail], window: '0:2'}",
            ["9:47: cells.late.window: detail acts at detail.out, outside any step", "it can limit generator"],
        ),
        ("{ablate: text, branch: cond}", ["cells.late.branch: text acts at text.out, outside any branch"]),
        ("{ablate: generator, window: '7:9'}", ["steps=7:9 selects none of 3"]),
    ],
)
def test_what_a_window_cannot_limit_is_told(cell: str, expected: list[str]) -> None:
    text = STUDY.replace("  text: {ablate: text}", f"  late: {cell}")
    with pytest.raises(StudyError) as caught:
        bench(text=text)
    for part in expected:
        assert part in str(caught.value)


def test_cells_with_the_same_swaps_share_their_weights() -> None:
    text = STUDY.replace("  both:", "  again: {swap: {detail: sharp}, ablate: text}\n  both:")
    cells = bench(text=text).plan.cells
    assert cells["sharp"].pipe is cells["again"].pipe is not cells["baseline"].pipe


def test_an_edit_that_reaches_over_nodes_is_narrowed_to_each() -> None:
    cells = bench(text=STUDY.replace("{ablate: text}", "{edits: [{kind: scale, at: '**', factor: 0.5}]}")).plan.cells
    narrowed = {node: [edit.at for edit in edits] for node, edits in edits_by_node(cells["text"].pipe, cells["text"].edits).items()}
    assert narrowed == {
        "text": ["text.out"],
        "denoise": ["generator.out"],
        "upsample.0": ["upsample.0.skip"],
        "upsample.1": ["upsample.1.skip"],
        "detail": ["detail.out"],
    }
