"""Work that is split: shards of a folder, batches of workers, and the threads that results depend on."""

from __future__ import annotations

import fcntl
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.contracts.engine_contract import content
from wanlab.runs import cell as cells
from wanlab.runs.dispatch import Dispatch
from wanlab.runs.engine import make_engine
from wanlab.runs.files import RunFolderError
from wanlab.runs.lock import held
from wanlab.runs.plan import Group
from wanlab.runs.shard import Shard
from wanlab.runs.store import RunFolder

Run = Callable[..., Any]


@st.composite
def plans(draw: st.DrawFn) -> list[Group]:
    """Batches of one to three groups of one to five cells."""
    sizes = draw(st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=6))
    return [
        Group(chunk, tuple(f"{number}.{cell}" for cell in range(size)))
        for chunk, groups in enumerate(sizes)
        for number, size in enumerate(groups)
    ]


@given(plans(), st.integers(1, 9))
def test_shards_have_every_task_once_and_whole_batches_where_there_are_enough(groups: list[Group], n: int) -> None:
    shares = [Shard(i, n).share(groups) for i in range(1, n + 1)]
    tasks = [task for share in shares for group in share for task in group]
    assert sorted(map(repr, tasks)) == sorted(repr(task) for group in groups for task in group)
    if len({group.chunk for group in groups}) >= n:
        chunks = [{group.chunk for group in share} for share in shares]
        assert sum(map(len, chunks)) == len(set().union(*chunks)) and max(map(len, chunks)) - min(map(len, chunks)) <= 1


@given(plans(), st.integers(1, 4), st.sampled_from([None, 1, 2]), st.randoms())
def test_workers_get_every_cell_once_and_help_each_other_only_at_the_end(
    groups: list[Group], workers: int, size: int | None, chance: Any
) -> None:
    dispatch, busy, taken, done, back = Dispatch(iter(groups), workers, size), {}, [], set(), []
    while True:
        idle = [w for w in range(workers) if w not in busy]
        asked = {w: dispatch.next(w) for w in chance.sample(idle, len(idle))}
        for worker, piece in asked.items():
            if piece is None:
                continue
            [whole] = [g for g in groups if g.chunk == piece.chunk and set(piece.cells) <= set(g.cells)]
            if size is None:
                assert piece == whole or piece in back
            elif piece.cells[0] != whole.cells[0]:
                assert (whole.chunk, whole.cells[0]) in done, "a group was helped with before its first cell was done"
            others = {w for w, p in taken if p.chunk == piece.chunk} - {worker}
            assert not others or {p.chunk for _, p in taken} >= {g.chunk for g in groups}, "another batch was left"
            busy[worker] = piece
            taken.append((worker, piece))
        if not busy:
            break
        worker = chance.choice(sorted(busy))
        piece = busy.pop(worker)
        if chance.random() < 0.1:  # it dies in its first cell, which the executor hands in again
            back.append(Group(piece.chunk, piece.cells[1:]))
            dispatch.give_back(worker, back[-1])
            taken[taken.index((worker, piece))] = (worker, Group(piece.chunk, piece.cells[:1]))
            done.add((piece.chunk, piece.cells[0]))
            continue
        done.add((piece.chunk, piece.cells[0]))
        dispatch.done(worker)
    tasks = sorted(repr(task) for _, piece in taken for task in piece)
    assert tasks == sorted(repr(task) for group in groups for task in group)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "1/0", "a/b", "-1/3", "1/3/5"])
def test_a_shard_is_i_of_n_counted_from_one(text: str) -> None:
    with pytest.raises(ValueError, match=f"--shard {text}: expected i/n with i from 1 to n"):
        Shard.parse(text)


def test_engines_are_known_by_name_and_take_their_own_options_alone() -> None:
    assert make_engine("inline").name == "inline"
    with pytest.raises(LookupError, match=r"no engine 'rey' \(did you mean 'ray'\?\); there are inline, ray"):
        make_engine("rey")
    with pytest.raises(ValueError, match="--workers 2 is for --engine ray; the engine of this run is inline"):
        make_engine("inline", workers=2)


@pytest.mark.parametrize("n", [3, 8])
def test_shards_one_after_the_other_give_the_bytes_of_one_run(run: Run, n: int) -> None:
    whole, _ = run("whole", threads_each=1)
    for i in range(1, n + 1):
        split, outcome = run("split", shard=Shard(i, n))
        assert bool(outcome.waiting) == (i < n) and not (split / "results.csv").exists()
    ours, theirs = ({k: v for k, v in content(root).items() if "/" in k} for root in (split, whole))
    assert ours == theirs
    assert len([line for line in RunFolder(split).attempts() if line["state"] == "began"]) == n


def test_shards_of_another_split_or_device_are_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    root, _ = run("out", shard=Shard(1, 2))
    with held(root, Shard(1, 2)):
        with pytest.raises(RunFolderError, match=r"is being run by shard 1/2 in process \d+ on .*; wait for it"):
            run("out", shard=Shard(1, 2))
        with pytest.raises(RunFolderError, match=r"in another split, by shard 1/2 .*say the same n"):
            run("out", shard=Shard(1, 3))
        with pytest.raises(RunFolderError, match="is being run by shard 1/2"):
            run("out")
        stored = json.loads((root / "environment.json").read_text())
        stored["code"]["generate"] = "another"
        stored["packages"]["torch"] = "1.0"
        (root / "environment.json").write_text(json.dumps(stored))
        with pytest.raises(RunFolderError, match=r"shard 1/2 .* would not fit together with this one.*packages\.torch"):
            run("out", shard=Shard(2, 2))
    run("out", shard=Shard(2, 2))


def test_a_folder_on_a_file_system_without_locks_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def without(stream: Any, kind: int) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", without)
    with pytest.raises(RunFolderError, match="this file system keeps no locks"):
        run("out")


def test_threads_are_part_of_the_keys_and_a_folder_keeps_its_own(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[int] = []
    part = cells.Workbench.part
    monkeypatch.setattr(cells.Workbench, "part", lambda self, task: seen.append(torch.get_num_threads()) or part(self, task))
    run("out", "data.n=2", "seeds=[0]", threads_each=2)
    assert set(seen) == {2} and torch.get_num_threads() == 1 and RunFolder(tmp_path / "out").threads == 2
    next((tmp_path / "out").glob("cells/text-*/DONE")).unlink()
    seen.clear()
    said = io.StringIO()
    run("out", "data.n=2", "seeds=[0]", said=said)
    assert seen == [2] and "4 of 5 cells are done" in said.getvalue()
    monkeypatch.undo()
    from wanlab.runs.environment import context_of, threads

    with threads(2):
        two = context_of("cpu")
    assert two != context_of("cpu") and two.keys() == context_of("cpu").keys()


def test_an_accelerator_that_is_no_cuda_device_is_not_taken_for_a_cpu() -> None:
    from wanlab.runs.environment import device_class

    assert [device_class(name) for name in ("cpu", "mps", "xpu:1")] == ["cpu", "mps", "xpu"]
