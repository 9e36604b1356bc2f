"""Cells that share work: the same bytes as each by itself, exactly the stage runs of the plan, whatever fails."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.contracts import strategies
from tests.contracts.engine_contract import content
from tests.runs.flow import Flow
from tests.runs.toy import Toy, bench
from wanlab.analysis.cells import Cell, Seen
from wanlab.analysis.cells import run as run_cells
from wanlab.core import KINDS, Edit, edit_from_dict
from wanlab.core.edit import Event
from wanlab.graph import digest
from wanlab.runs.cell import Workbench
from wanlab.runs.plan import Group, Task
from wanlab.runs.store import RunFolder

Run = Callable[..., Any]

STUDY = """
name: forks
pipeline: toy
data: {kind: procedural, split: test, n: 3, seed: 0}
seeds: [0, 1]
batch: 2
cells:
  baseline:
  late: {edits: [{kind: zero, at: generator.out, steps: "3:", frames: [2, 3]}]}
  window: {edits: [{kind: noise, at: generator.out, std: 0.2, steps: "2:4"}]}
  window_last:
    edits: [{kind: noise, at: generator.out, std: 0.2, steps: "2:4"}, {kind: scale, at: generator.out, factor: 0.5, steps: last}]
  first: {edits: [{kind: bypass, at: generator.out, steps: 0}]}
  level: {edits: [{kind: scale, at: sampler.video.velocity, factor: 0.9, sigma: [0.0, 0.6]}]}
  noise: {edits: [{kind: scale, at: sampler.video.noise, factor: 0.9}]}
  noise_late: {edits: [{kind: scale, at: sampler.video.noise, factor: 0.9}, {kind: zero, at: generator.out, steps: "3:"}]}
  detail: {ablate: detail}
  sharp: {swap: {detail: sharp}}
  text: {ablate: text}
  row: {edits: [{kind: zero, at: sampler.video.latent, steps: "4:", frames: [1]}]}
  fewer: {sampler: {steps: 4}}
  guided: {sampler: {guidance: 3.0}}
metrics: [psnr, flicker]
report: {videos: 1}
"""
PLAIN = ("share.cache=false",)


@pytest.fixture
def pipe() -> Toy:
    """Of this file: the one whose loop can pause."""
    return Flow()


def work(*sets: str, pipe: Flow | None = None) -> Workbench:
    return bench(*sets, text=STUDY, pipe=pipe or Flow())


def videos(made: Workbench) -> dict[Task, torch.Tensor]:
    """Every cell on every batch, in the order of the plan."""
    found = {}
    for group in made.plan.groups():
        made._videos = made._open(made.plan.chunks[group.chunk], group.cells)
        found |= {task: made.generate(task) for task in group}
        made._videos.close()
    return found


def same(one: dict[Task, torch.Tensor], other: dict[Task, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[task], other[task]) for task in one)


def test_forked_and_cached_cells_have_the_bytes_and_keys_of_plain_ones() -> None:
    forked, cached, plain = work(), work("share.fork=false"), work(*PLAIN)
    assert same(videos(forked), videos(plain)) and same(videos(cached), videos(plain))
    keys = [[(cell.key, cell.keys) for cell in made.plan.cells.values()] for made in (forked, cached, plain)]
    assert keys[0] == keys[1] == keys[2]
    assert len({cell.key for cell in forked.plan.cells.values()}) == 14
    assert len({v.sum().item() for task, v in videos(plain).items() if task.chunk == 0}) == 14     # all differ


PIPE = Flow()
REACH = ("", "sampler.**", "{generator,sampler}.**", "sampler.video.{noise,latent}")      # "": the one site
SHAKEN = (*["sampler.video.noise"] * 2, "sampler.video.latent", "sampler.video.velocity", "generator.out", "detail.out")


@st.composite
def sharing(draw: st.DrawFn) -> list[Cell]:
    """Cells that have some edits in common, of which any may act in some steps alone or outside of the loop."""
    def some(most: int) -> list[Any]:
        given = draw(strategies.edits([PIPE.sites()[name] for name in SHAKEN], 2, 6, ("cond",), most))
        return [edit_from_dict(_reaching(one, draw(st.sampled_from(REACH)))) for one in given]

    common, one, other = some(2), some(2), some(1)
    return [Cell(name, (*edits,)) for name, edits in
            (("plain", []), ("common", common), ("one", common + one), ("other", common + other), ("else", other))]


def _reaching(told: dict[str, Any], pattern: str) -> dict[str, Any]:
    """The edit at every site of a pattern, if it is one of few that mean something at all of them."""
    wide = pattern and told["kind"] in ("scale", "noise", "zero", "identity") and "steps" not in told and "branch" not in told
    return told | {"at": pattern} if wide else told


@settings(max_examples=60)
@given(sharing())
def test_whatever_cells_share_they_have_the_bytes_of_a_plain_loop(cells: list[Cell]) -> None:
    request = PIPE.request(torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)), "a red circle", [0, 1])
    shared, alone = (run_cells(PIPE, request, cells, {"bytes": _bytes}, share=share) for share in (True, False))
    assert shared.equals(alone)


def _bytes(seen: Seen) -> list[float]:
    """A number for each row that no other row has."""
    return [float(int(digest(row)[:12], 16)) for row in seen.video]


@pytest.mark.parametrize("sets", [(), PLAIN, ("share.fork=false",), ("share.pack=3",), ("share.pack=100", "share.fork=false"),
                                  ("reference=baseline",), ("share.cache=false", "share.pack=2")])  # fmt: skip
def test_exactly_what_was_planned_runs(sets: tuple[str, ...], run: Run, pipe: Flow) -> None:
    made = work(*sets)
    planned = made.plan.stage_runs()
    for group in made.plan.groups():
        assert not [result for _, result in made.evaluate(group) if hasattr(result, "traceback")]
    tally = made.cache.tally
    assert tally.runs == planned.shared and +tally.steps == +planned.steps
    assert {name: pytest.approx(rows) for name, rows in tally.rows.items()} == planned.rows
    assert sum(planned.alone.values()) == 14 * 5 * 4 and planned.steps_alone["denoise"] == (13 * 6 + 4) * 4
    assert (planned.shared == planned.alone) == (sets == PLAIN)


def test_what_other_samples_ask_for_too_runs_once(tmp_path: Path) -> None:
    """A picture and a prompt that stand twice in a list, and a prompt that all have."""
    from PIL import Image

    for colour in ("red", "blue"):
        Image.new("RGB", (16, 16), colour).save(tmp_path / f"{colour}.png")
    names = ("red", "red", "blue", "blue", "red", "red")
    (tmp_path / "list.csv").write_text("\n".join(["image,prompt", *(f"{name}.png,a circle" for name in names)]))
    made = work(f"data={{kind: images, path: {tmp_path / 'list.csv'}}}", "metrics=[flicker]")
    planned = made.plan.stage_runs()
    for group in made.plan.groups():
        list(made.evaluate(group))
    assert made.cache.tally.runs == planned.shared and planned.shared["text"] == 2      # with the component and without it


def test_steps_in_common_run_once() -> None:
    planned = work("data.n=1", "seeds=[0]").plan.stage_runs()
    # baseline 6; after 2 steps window 4, of which window_last leaves for the last 1; late 3, row 2, level at 0.6 of sigma; first 6
    # and noise 6, so noise_late, text 6, fewer 4, guided 6 by themselves; detail and sharp none
    level = sum(sigma <= 0.6 for sigma in Flow().sampler.sigmas(6))
    assert planned.steps["denoise"] == 6 + 4 + 1 + 3 + 2 + level + 6 + 6 + 6 + 6 + 4 + 6
    assert str(planned).startswith("would have been 70 stage runs, is ") and "(denoising steps: 82, " in str(planned)


def test_groups_are_cohorts_and_the_plan_of_any_of_them_is_the_same() -> None:
    made = work()
    groups = [group for group in made.plan.groups() if group.chunk == 0]
    assert groups[0].cells[0] == "baseline" and {len(group.cells) for group in groups} == {1, 8}
    assert sorted(name for group in groups for name in group.cells) == sorted(made.plan.cells)


@pytest.mark.parametrize("size", [2, 4, 100])
def test_packed_cells_have_the_bytes_of_plain_ones_on_a_cpu_and_keys_of_their_own(size: int) -> None:
    packed, plain = work(f"share.pack={size}"), work(*PLAIN)
    assert same(videos(packed), videos(plain))
    assert all(packed.plan.cells[name].key != plain.plan.cells[name].key for name in ("baseline", "late", "window"))
    assert max(pieces for pieces in map(len, _packs(packed))) == min(size, 13)


def _packs(made: Workbench) -> list[Any]:
    return [pieces for _, pieces in made.plan.work(0, made.plan.cells).runs(made.plan.cells)]


def test_a_resumed_packed_run_has_the_bytes_of_an_undisturbed_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs are fixed by the plan, never by what is left over."""
    whole, _ = run("whole", "share.pack=3", text=STUDY)
    part, calls = Workbench.part, []

    def interrupted(self: Workbench, task: Task) -> Any:
        calls.append(task)
        if len(calls) == 21:
            raise KeyboardInterrupt
        return part(self, task)

    monkeypatch.setattr(Workbench, "part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("stopped", "share.pack=3", text=STUDY)
    monkeypatch.setattr(Workbench, "part", part)
    assert content(run("stopped", "share.pack=3", text=STUDY)[0]) == content(whole)


WRONG = 'cells.wrong={edits: [{kind: zero, at: generator.out, sigma: [5, 6]}, {kind: scale, at: generator.out, factor: 0.5}]}'


def test_a_cell_that_fails_in_a_pack_fails_alone(run: Run) -> None:
    said = io.StringIO()
    root, outcome = run("out", "share.pack=4", WRONG, text=STUDY, said=said)
    assert list(outcome.failed) == ["wrong"] and len(outcome.done) == 14
    assert "never due" in outcome.failed["wrong"]
    plain, _ = run("plain", *PLAIN, WRONG, text=STUDY)
    ours, theirs = (RunFolder(path).cells() for path in (root, plain))
    for name in theirs:
        values = [torch.tensor(cell.samples()["value"], dtype=torch.float64) for cell in (ours[name], theirs[name])]
        assert torch.allclose(*values, atol=1e-4, equal_nan=True), name


@pytest.mark.parametrize("sets", [(), ("share.pack=4",)])
def test_a_device_without_memory_for_a_batch_gets_half_of_it(sets: tuple[str, ...]) -> None:
    small, large = Flow(), Flow()
    small.most = 1
    one, other = videos(work(*sets, pipe=small)), videos(work(*sets, pipe=large))
    assert all(torch.allclose(one[task], other[task], atol=1e-5, rtol=0) for task in one)
    small.most = 0
    [(_, failure), *_] = work(*sets, pipe=small).evaluate(Group(0, ("baseline",)))
    assert "OutOfMemoryError: the device is full" in failure.message     # type: ignore[union-attr]


def test_planning_leaves_the_folder_of_the_cache_as_it_is(tmp_path: Any) -> None:
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "model.safetensors").write_bytes(b"w" * 4000)
    work(f"cache.disk={tmp_path}", "cache.disk_gib=0.000001")
    work(f"cache.disk={tmp_path / 'not' / 'there'}")
    assert [path.name for path in tmp_path.rglob("*")] == ["t5", "model.safetensors"]


def test_a_disk_cache_serves_states_to_another_process_of_the_study(run: Run, pipe: Flow, tmp_path: Any) -> None:
    cache = f"cache.disk={tmp_path / 'cache'}"
    first = work(cache, "data.n=2", "seeds=[0]")
    dict(first.evaluate(Group(0, ("baseline", "late"))))
    again = work(cache, "data.n=2", "seeds=[0]")
    found = dict(again.evaluate(Group(0, ("window",))))
    assert again.cache.tally.steps["denoise"] == 4 and again.cache.tally.runs["text"] == 0
    plain = dict(work(*PLAIN, "data.n=2", "seeds=[0]").evaluate(Group(0, ("window",))))
    assert found[Task("window", 0)].values == plain[Task("window", 0)].values    # type: ignore[union-attr]


def test_the_reference_is_made_once_a_batch_though_it_stands_in_another_cohort() -> None:
    made = work("reference=baseline")
    planned = made.plan.stage_runs(lambda cell, chunk: cell != "first")
    for chunk in range(4):
        list(made.evaluate(Group(chunk, ("first",))))
    expected = {"text": 2, "denoise": (5 + 1) * 4, "upsample.0": 8, "upsample.1": 8, "detail": 8}
    assert made.cache.tally.runs == planned.shared == expected


# ---------------------------------------------------------------------------------------------------- every kind, under two seeds

BEFORE = {"zero": {}, "scale": {"factor": 0.5}, "noise": {"std": 0.5}, "steer": {"direction": [0.1, 0.2, 0.3]}, "bypass": {},
          "identity": {}, "mean": {"reference": "RECORD"}, "resample": {"reference": "RECORD"}, "patch": {"record": "ONE"},
          "resample_others": {}, "mean_others": {"over": "b"}, "test_drawn": {}}
WITHIN = {kind: told for kind, told in BEFORE.items() if kind != "steer"} | {
    "mean": {}, "freeze_frame": {}, "shuffle_frames": {}, "reverse_frames": {}, "low_pass_frames": {}}


@dataclass(frozen=True)
class Drawn(Edit):
    """A kind of a user's own, which says nothing of itself."""

    kind = "test_drawn"

    def change(self, x: torch.Tensor, event: Event) -> torch.Tensor:
        return x * torch.tensor([event.seed(row) % 1000 + 1.0 for row in range(len(x))]).reshape(-1, *[1] * (x.ndim - 1))


del KINDS["test_drawn"]     # of these tests alone


@pytest.fixture
def every_kind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A study of two seeds with a cell for each kind of edit, at what the seeds do not decide (text) and in the loop."""
    monkeypatch.setitem(KINDS, "test_drawn", Drawn)
    for rows, name in ((3, "RECORD"), (1, "ONE")):
        images, prompts, seeds = torch.rand(rows, 3, 16, 16), [*"abc"][:rows], [*range(90, 90 + rows)]
        out = Flow().generate(images, prompts, seeds, capture=["text.out", "generator.out"])
        out.record.save(tmp_path / f"{name}.safetensors")
    lines = ["  baseline:"]
    for site, kinds in (("text.out", BEFORE), ("generator.out", WITHIN)):
        for kind, told in kinds.items():
            given = {key: str(tmp_path / f"{value}.safetensors") if str(value).isupper() else value for key, value in told.items()}
            when = {"steps": "2:"} if site == "generator.out" else {}
            edit = json.dumps({"kind": kind.removesuffix("_others"), "at": site, **given, **when})
            lines.append(f"  {kind}_{site[:4]}: {{edits: [{edit}]}}")
    return STUDY[:STUDY.index("  baseline:")].replace("n: 3", "n: 4") + "\n".join(lines) + "\nmetrics: [psnr]\n"


@pytest.mark.parametrize("sets", [("share.fork=false",), (), ("share.pack=3",)])
def test_no_seed_is_handed_what_an_edit_drew_for_another(every_kind: str, sets: tuple[str, ...]) -> None:
    shared, plain = (bench(*given, text=every_kind, pipe=Flow()) for given in (sets, PLAIN))
    found, expected = videos(shared), videos(plain)
    assert [task for task in expected if not torch.equal(found[task], expected[task])] == []
    texts = {name: [keys["text"] for keys in cell.keys] for name, cell in plain.plan.cells.items()}
    drawn = {name for name, keys in texts.items() if keys[0] != keys[1]}
    assert drawn == {"noise_text", "resample_text", "test_drawn_text"}
