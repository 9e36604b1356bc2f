"""Running work: what runs, in how many rows, what is kept, and what happens when memory or a cell fails."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.graph.test_fork import CELLS, plan
from wanlab.core import Edit, Mean, Resample, Scale, Zero
from wanlab.core.index import holds, positions
from wanlab.core.rows import ONCE, by_row, placed
from wanlab.graph import GIB, PackError, StageCache, Walk, Work, run_stage


@dataclass
class Request:
    rows: list[float]

    def __len__(self) -> int:
        return len(self.rows)

    def cut(self, rows: slice) -> Request:
        return Request(self.rows[rows])

    def join(self, others: Sequence[Request]) -> Request:
        return Request([row for one in (self, *others) for row in one.rows])


@dataclass
class Graph:
    """Arithmetic on one number a row, in four steps where the node is `loop`; `most` rows have memory, `fail` is the strength of
    a noise that raises. `ran`: (node, rows)."""

    most: int = 10**9
    fail: float = -1.0
    ran: list[tuple[str, int]] = field(default_factory=list)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def run_node(self, name: str, inputs: Mapping[str, Any], request: Request, edits: Sequence[Any] = (), *, progress: Any = None,
                 before: Any = None, until: int | None = None) -> dict[str, Tensor]:
        self.ran.append((name, len(request)))
        if len(request) > self.most:
            raise torch.OutOfMemoryError("no room")
        if any(getattr(edit, "std", None) == self.fail for edit in edits):
            raise ValueError("this edit fails")
        x = torch.tensor(request.rows) + sum(one["x"] for one in inputs.values()) + len(name)
        if name != "loop":
            return {"x": edited(x, edits, None)}
        x, start = (x, 0) if before is None else (before["x"], int(before[ONCE + "step"]))
        for step in range(start, until or 4):
            x = edited(1.5 * x + step, edits, step)
        return {"x": x} if until is None else {"x": x, ONCE + "step": torch.tensor(until)}


def edited(x: Tensor, edits: Sequence[Any], step: int | None) -> Tensor:
    for edit in edits:
        if step is None or edit.steps is None or holds(edit.steps, step, 4, "steps"):
            rows = torch.zeros(len(x), dtype=torch.bool)
            rows[list(range(len(x))) if edit.rows is None else positions(edit.rows, len(x), "rows")] = True
            x = torch.where(rows, x * getattr(edit, "std", getattr(edit, "factor", 2.0)), x)
    return x


ROWS = Request([1.0, 2.0, 3.0, 4.0, 5.0])


# ---------------------------------------------------------------------------------------------------- one stage, some rows

@pytest.mark.parametrize("most", [1, 2, 3, 4, 5])
def test_rows_that_do_not_fit_are_halved_and_give_the_same(most: int) -> None:
    graph, fits = Graph(most), {}
    edits = [Scale("a", 3.0, rows=[1, 4]), Scale("a", 0.5), Scale("a", 7.0, rows="-2:")]
    inputs, before = {"text": {"x": torch.arange(5.0)}}, {"x": torch.arange(5.0) * 10, ONCE + "step": torch.tensor(1)}
    out = run_stage(graph, "loop", inputs, ROWS, edits, before=before, until=3, fits=fits)
    whole = run_stage(Graph(), "loop", inputs, ROWS, edits, before=before, until=3)
    assert out.keys() == whole.keys() and all(torch.equal(out[name], whole[name]) for name in out)
    graph.ran.clear()
    run_stage(graph, "loop", inputs, ROWS, edits, fits=fits)
    assert all(rows <= most for _, rows in graph.ran)             # it is not tried again
    assert sum(rows for _, rows in graph.ran) == 5 and (most < 5) == ("loop" in fits)


@pytest.mark.parametrize("edits", [[Resample("a")], [Mean("a", over="b")], [Zero("a", mask=torch.ones(5, 2, 2))]])
def test_what_mixes_rows_cannot_be_parted_and_one_row_that_does_not_fit_is_told(edits: list[Edit]) -> None:
    graph = Graph(3)
    with pytest.raises(torch.OutOfMemoryError):
        run_stage(graph, "loop", {}, ROWS, edits)
    assert graph.ran == [("loop", 5)]
    with pytest.raises(torch.OutOfMemoryError):
        run_stage(Graph(0), "loop", {}, ROWS, [])


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    graph = Graph(fail=0.1)
    with pytest.raises(ValueError, match="this edit fails"):
        run_stage(graph, "loop", {}, ROWS, CELLS["one"]["loop"])
    assert len(graph.ran) == 1


@pytest.mark.parametrize(("rows", "kept", "at", "expected"), [
    (None, range(3), 3, (3, 4, 5)), ([0, -1], range(3), 3, (3, 5)), ("1:", range(1, 3), 0, (0, 1)), ([0], range(1, 3), 0, None),
])  # fmt: skip
def test_edits_find_their_rows_in_another_batch(rows: Any, kept: range, at: int, expected: Any) -> None:
    moved = placed(Zero("a", rows=rows), kept, of=3, at=at, total=6)
    assert (moved and moved.rows) == expected
    assert by_row(Zero("a", rows=rows)) and not by_row(Resample("a"))


# ---------------------------------------------------------------------------------------------------- work

def walk(cells: Mapping[str, Any], size: int = 1, graph: Graph | None = None, memory: int = GIB, asked: Sequence[str] | None = None,
         fork: bool = True) -> tuple[dict[str, Tensor], Walk, Graph]:
    graph, work = graph or Graph(), Work.of(plan(cells, fork), size)
    on = Walk(work, list(asked or cells), lambda cell: (graph, ROWS), StageCache(memory))
    return {cell: on.result(cell)["x"] for cell in asked or cells}, on, graph


@pytest.mark.parametrize("size", [1, 2, 3, 10])
def test_what_runs_is_what_the_work_says_and_the_results_are_those_of_each_cell_alone(size: int) -> None:
    found, on, graph = walk(CELLS, size)
    runs = list(on.work.runs(CELLS))
    assert Counter(node for node, _ in graph.ran) == Counter(pieces[0].node for _, pieces in runs)
    assert on.cache.tally.runs == Counter(pieces[0].node for _, pieces in runs)
    assert on.cache.tally.steps["loop"] == sum(pieces[0].stop - pieces[0].start for _, pieces in runs)
    assert on.cache.tally.rows["loop"] == sum(pieces[0].part * len(pieces) * 5 for _, pieces in runs if pieces[0].node == "loop")
    assert all(torch.equal(found[cell], walk({cell: CELLS[cell]})[0][cell]) for cell in CELLS)
    assert len(on.cache.memory) == 2            # the two texts: all else is of no use to anybody any more
    on.close()
    assert len(on.cache.memory) == 2


def test_memory_holds_the_states_that_are_still_to_be_read_and_no_results() -> None:
    many = {f"cell{i}": {"up": [Scale("up.z", float(i + 2))]} for i in range(50)}
    work = Work.of(plan(many))
    graph, cache = Graph(), StageCache()
    on = Walk(work, list(many), lambda cell: (graph, ROWS), cache)
    sizes = []
    for cell in many:
        on.result(cell)
        sizes.append(len(cache.memory))
    assert set(sizes[:-1]) == {2} and sizes[-1] == 1            # text and loop; at last the text, for another batch


def test_a_cache_that_holds_nothing_costs_time_and_changes_no_result() -> None:
    shared, _, _ = walk(CELLS)
    alone, on, graph = walk(CELLS, memory=0)
    assert all(torch.equal(shared[cell], alone[cell]) for cell in CELLS) and len(on.cache.memory) == 0
    assert Counter(node for node, _ in graph.ran)["last"] == len(CELLS)
    assert Counter(node for node, _ in graph.ran)["text"] == len(CELLS)         # each once, though several stages of a cell read it


def test_a_pack_that_fails_is_told_as_such_and_is_not_tried_again() -> None:
    graph = Graph(fail=0.2)
    cells = {name: CELLS[name] for name in ("one", "two", "three")}
    work = Work.of(plan(cells), 3)
    on = Walk(work, list(cells), lambda cell: (graph, ROWS), StageCache())
    for cell in cells:
        with pytest.raises(PackError, match="one, two, three as one batch: this edit fails"):
            on.result(cell)
    assert graph.ran == [("text", 5), ("loop", 15)]
    found, _, _ = walk(cells, graph=Graph(fail=0.2), asked=["one", "three"])
    assert set(found) == {"one", "three"}


def test_progress_is_told_cell_and_stage() -> None:
    told: list[Any] = []
    graph = Graph()
    work = Work.of(plan({"base": {}}))
    Walk(work, ["base"], lambda cell: (graph, ROWS), StageCache(), lambda *what: told.append(what)).result("base")
    assert told == [("base", node, 0, 0) for node in ("text", "loop", "up", "last")]
