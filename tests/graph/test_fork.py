"""When edits act, where courses part, what is run together and in which order: plans over small graphs, nothing is computed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanlab.core import Edit, Noise, Scale, Site, Zero
from wanlab.graph import Piece, Recipe, Timetable, Work, cohorts, forked, pieces_of, side_by_side
from wanlab.graph.fork import cuts_of

LEVELS = [1.0, 0.75, 0.5, 0.25]
SITES = {
    "gen.z": Site("gen.z", ("b", "c"), clock=frozenset({"step", "branch"})),
    "gen.noise": Site("gen.noise", ("b", "c"), clock=frozenset()),
    "gen.odd": Site("gen.odd", ("b", "c")),
}


@dataclass
class Node:
    name: str
    inputs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    weights_hash: str = "w"


NODES = [Node("text", (), ("prompts",)), Node("loop", ("text",), ("seeds", "steps")), Node("up", ("loop",)), Node("last", ("up",))]
ROWS = {"prompts": "p", "seeds": "s", "steps": 4}


def table(*edits: Edit, levels: list[float] | None = LEVELS) -> Timetable:
    return Timetable.of(edits, lambda at: [SITES[at]], levels)


def recipes(edits: Mapping[str, Sequence[Edit]]) -> list[Recipe]:
    found = []
    for node in NODES:
        levels = LEVELS if node.name == "loop" else None
        mine = Timetable.of(edits.get(node.name, ()), lambda at: [SITES.get(at, Site(at, ("b",)))], levels)
        found.append(Recipe.of(node, mine, "here", {"steps": 4}, rowwise=True))
    return found


def plan(cells: Mapping[str, Mapping[str, Sequence[Edit]]], fork: bool = True) -> dict[str, list[Piece]]:
    made = {name: recipes(edits) for name, edits in cells.items()}
    made = forked(made, dict.fromkeys(made, ROWS)) if fork else made
    return {name: pieces_of(name, mine, ROWS) for name, mine in made.items()}


# ---------------------------------------------------------------------------------------------------- timetables

@pytest.mark.parametrize(("edit", "steps"), [
    (Zero("gen.z"), {0, 1, 2, 3}),
    (Zero("gen.z", steps="2:"), {2, 3}),
    (Zero("gen.z", steps="last", branch="cond"), {3}),
    (Zero("gen.z", sigma=(0.3, 0.8)), {1, 2}),
    (Zero("gen.z", words="left"), {0, 1, 2, 3}),
])  # fmt: skip
def test_an_edit_stands_in_the_steps_in_which_it_acts(edit: Edit, steps: set[int]) -> None:
    times = table(edit)
    assert {step for step, acting in enumerate(times.at) if edit in acting} == steps and times.always == ()
    assert times.within(0, 4) == (edit,) and all(times.within(s, s + 1) == ((edit,) if s in steps else ()) for s in range(1, 4))


@pytest.mark.parametrize("edit", [Scale("gen.noise", 0.5), Zero("gen.odd"), Zero("gen.z", sigma=(5.0, 6.0))])
def test_what_acts_outside_the_loop_never_or_nobody_knows_when_decides_from_the_beginning(edit: Edit) -> None:
    assert table(edit).always == (edit,) and table(edit).course == table().course
    assert table(edit, levels=None).always == (edit,) and table(edit, levels=None).course == ()


def test_courses_are_equal_where_the_same_acts_however_it_was_written() -> None:
    everywhere, window, sigma = table(Zero("gen.z")), table(Zero("gen.z", steps="0:4")), table(Zero("gen.z", sigma=(0.0, 1.0)))
    assert everywhere.course == window.course == sigma.course
    late = table(Zero("gen.z", steps="2:")).course
    assert late[:2] == table().course[:2] and late[2:] == everywhere.course[2:]
    assert table(Zero("gen.z"), Scale("gen.z", 2.0)).course != table(Scale("gen.z", 2.0), Zero("gen.z")).course


# ---------------------------------------------------------------------------------------------------- cuts

def test_courses_pause_where_another_leaves_them_and_nowhere_else() -> None:
    courses = [("a", tuple("xxxx")), ("a", tuple("xxyy")), ("a", tuple("xxyz")), ("a", tuple("zxxx")), ("b", tuple("xxxx"))]
    assert cuts_of(courses) == [(2,), (2, 3), (2, 3), (), ()]


@given(st.lists(st.tuples(st.sampled_from("ab"), st.text("xyz", min_size=5, max_size=5)), min_size=1, max_size=8))
def test_in_pieces_each_step_that_several_share_runs_once(courses: list[tuple[str, str]]) -> None:
    """The steps that run are the different beginnings of the courses: fewer is impossible, more is waste."""
    given_ = [(beginning, tuple(course)) for beginning, course in courses]
    run: dict[tuple[str, str], int] = {}
    for (beginning, course), cuts in zip(courses, cuts_of(given_), strict=True):
        for start, stop in zip((0, *cuts), (*cuts, 5), strict=True):
            run[beginning, course[:stop]] = stop - start
    assert sum(run.values()) == len({(beginning, course[:step]) for beginning, course in courses for step in range(1, 6)})


# ---------------------------------------------------------------------------------------------------- pieces

LATE, LATER = Zero("gen.z", steps="2:"), Zero("gen.z", steps="3:")


def test_forked_loops_end_under_the_keys_of_whole_ones() -> None:
    cells: dict[str, Any] = {"base": {}, "late": {"loop": [LATE]}, "later": {"loop": [LATER]}, "up": {"up": [Zero("up.z")]}}
    cut, whole = plan(cells), plan(cells, fork=False)
    for name in cells:
        assert [p.key for p in cut[name] if p.until is None] == [p.key for p in whole[name]]
    spans = {name: [(p.start, p.stop, p.until) for p in mine if p.node == "loop"] for name, mine in cut.items()}
    assert spans == {"base": [(0, 2, 2), (2, 3, 3), (3, 4, None)], "late": [(0, 2, 2), (2, 4, None)],
                     "later": [(0, 2, 2), (2, 3, 3), (3, 4, None)], "up": [(0, 2, 2), (2, 3, 3), (3, 4, None)]}  # fmt: skip
    assert cut["late"][1].key == cut["base"][1].key and cut["late"][1].edits == () and cut["late"][2].edits == (LATE,)
    assert {p.key for p in cut["up"] if p.node != "up" and p.node != "last"} <= {p.key for p in cut["base"]}
    assert sum(p.part for p in cut["base"] if p.node == "loop") == 1.0


def test_an_edit_outside_the_loop_runs_it_by_itself() -> None:
    cells = plan({"base": {}, "late": {"loop": [LATE]}, "noise": {"loop": [Scale("gen.noise", 0.5), LATE]}})
    assert [(p.start, p.stop) for p in cells["noise"] if p.node == "loop"] == [(0, 4)]
    assert not {p.key for p in cells["noise"] if p.node == "loop"} & {p.key for p in cells["late"]}


def test_no_piece_of_a_loop_loses_an_edit_that_acts_outside_of_its_steps() -> None:
    halved, never = Scale("gen.noise", 0.5), Zero("gen.z", sigma=(5.0, 6.0))
    for edit in (halved, never, Zero("gen.odd")):
        cells = plan({"one": {"loop": [edit]}, "late": {"loop": [edit, LATE]}, "base": {}, "later": {"loop": [LATER]}})
        for name, edits in (("one", (edit,)), ("late", (edit, LATE))):
            assert [piece.edits for piece in cells[name] if piece.node == "loop"] == [edits]
        assert [(p.start, p.stop) for p in cells["later"] if p.node == "loop"] == [(0, 3), (3, 4)]


def test_a_pattern_over_the_loop_and_what_stands_outside_of_it_acts_in_both() -> None:
    both = Scale("gen.{noise,z}", 0.5)
    times = Timetable.of([both, LATE], lambda at: [SITES["gen.noise"], SITES["gen.z"]] if at == both.at else [SITES[at]], LEVELS)
    assert times.always == (Scale("gen.noise", 0.5),) and times.edits == (*times.always, Scale("gen.z", 0.5), LATE)
    assert [times.within(*part) for part in ((0, 2), (1, 2), (2, 4))] == [times.edits[:2], times.edits[1:2], times.edits[1:]]


def test_local_is_what_depends_on_the_seeds() -> None:
    cells = plan({"base": {}, "drawn": {"text": [Noise("text.z")], "up": [Noise("up.z")]}})
    assert {p.node for p in cells["base"] if p.local} == {"loop", "up", "last"} and all(p.local for p in cells["drawn"])


def test_what_an_edit_draws_by_the_seeds_is_under_other_keys_for_other_seeds_and_nothing_else_is() -> None:
    ways: dict[str, list[Edit]] = {"zero": [Zero("z")], "noise": [Noise("z")], "rest": []}
    made = {name: recipes({"text": edits, "up": edits}) for name, edits in ways.items()}
    one, other = ({name: pieces_of(name, mine, ROWS | {"seeds": seeds})[0].key for name, mine in made.items()} for seeds in "ab")
    assert {name for name in ways if one[name] != other[name]} == {"noise"} and len(set(one.values())) == 3
    plain = Recipe.of(NODES[2], Timetable.of([Noise("z")], lambda at: [Site(at, ("b",))], None), "here", {}, rowwise=True)
    drawn = [pieces_of("up", [*made["rest"][:2], up], ROWS)[-1].key for up in (plain, replace(plain, draws=False))]
    assert drawn[0] == drawn[1]         # its inputs have the seeds in their keys already


# ---------------------------------------------------------------------------------------------------- work, packs, cohorts

CELLS: dict[str, Any] = {
    "base": {}, "one": {"loop": [Noise("gen.z", 0.1)]}, "two": {"loop": [Noise("gen.z", 0.2)]}, "up": {"up": [Zero("up.z")]},
    "late": {"loop": [LATE]}, "text": {"text": [Zero("text.z")]}, "three": {"loop": [Noise("gen.z", 0.3)]}}  # fmt: skip


def test_cohorts_share_a_loop_and_stand_side_by_side() -> None:
    cells = plan(CELLS)
    order = side_by_side(cells)
    assert order == ["base", "up", "late", "one", "two", "text", "three"]
    work = Work.of({name: cells[name] for name in order})
    assert cohorts(work) == [("base", "up", "late"), ("one",), ("two",), ("text",), ("three",)]
    needed = work.needed(cells)
    loop_start = next(p for p in cells["base"] if p.node == "loop")
    assert needed[loop_start.key] == 2 and needed[cells["base"][0].key] == 6     # the loop goes on twice; six runs read the text
    assert {pack for pack, _ in work.runs(["up"])} == {(p.key,) for p in cells["up"]}


def test_packs_are_of_one_shape_and_steps_and_named_in_their_keys() -> None:
    cells = plan(CELLS)
    plain, work = (Work.of(cells, size) for size in (1, 3))
    runs = [(pieces[0].node, pieces[0].start, pieces[0].stop, [p.cell for p in pieces]) for _, pieces in work.runs(cells)]
    assert ("loop", 0, 4, ["one", "two", "text"]) in runs and ("loop", 0, 4, ["three"]) in runs
    assert ("loop", 0, 2, ["base"]) in runs and ("loop", 2, 4, ["base", "late"]) in runs
    assert [r[3] for r in runs if r[0] == "last"] == [["base", "one", "two"], ["up", "late", "text"], ["three"]]
    assert not {p.key for _, pieces in work.runs(cells) if len(pieces) > 1 for p in pieces} & set(plain.pieces)
    assert [r[3] for r in runs if r[0] == "text"] == [["base"], ["text"]]       # shared by other batches, so never packed
    for pack, pieces in work.runs(cells):
        assert all(work.packs[key] == pack for key in pack) and {(p.node, p.start, p.stop) for p in pieces} == {
            (pieces[0].node, pieces[0].start, pieces[0].stop)}
    assert set(work.ends("late")) == {"last", "up", "loop", "text"}


def test_packs_of_a_cohort_are_those_of_the_whole() -> None:
    """What a resumed run, or another worker, makes of some cells is what all would have got."""
    cells = plan(CELLS)
    work = Work.of(cells, 2)
    for cohort in cohorts(work):
        order = [name for name in cells if name in cohort]
        mine = Work.of({name: cells[name] for name in order}, 2)
        assert mine.results == {name: work.results[name] for name in order}


def test_one_cell_of_a_pack_needs_what_the_others_need() -> None:
    cells = plan(CELLS)
    work = Work.of(cells, 3)
    nodes = [(p.node, p.cell) for _, pieces in work.runs(["one"]) for p in pieces]
    assert {("last", "base"), ("last", "one"), ("last", "two"), ("loop", "text")} <= set(nodes)
    assert ("last", "three") not in nodes


def test_edits_that_mix_rows_keep_a_cell_out_of_packs() -> None:
    made = {name: recipes(CELLS[name]) for name in ("one", "two")}
    made["two"] = [Recipe.of(r.node, r.timetable, "here", {"steps": 4}, rowwise=r.node.name != "loop") for r in made["two"]]
    work = Work.of({name: pieces_of(name, mine, ROWS) for name, mine in made.items()}, 2)
    assert [[p.cell for p in pieces] for _, pieces in work.runs(made) if pieces[0].node == "loop"] == [["one"], ["two"]]
