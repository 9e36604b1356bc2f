"""Running studies: sharing, resuming, failing, stopping. Observed from outside: folders, numbers, stage runs."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contracts.engine_contract import content
from tests.runs.toy import STUDY, Toy, bench
from wanlab.runs import store
from wanlab.runs.cell import Failure, Workbench, WorkbenchSpec
from wanlab.runs.document import StudyError
from wanlab.runs.plan import Group, Task
from wanlab.runs.reading import parse_study
from wanlab.runs.store import RunFolder, RunFolderError

Run = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[2]


def test_a_run_leaves_the_folder_of_the_contract(run: Run, pipe: Toy) -> None:
    root, outcome = run(report=True)
    assert outcome.done == ["baseline", "detail", "sharp", "both", "text"] and not outcome.failed
    for cell in RunFolder(root).cells().values():
        names = {path.name for path in cell.root.iterdir()}
        assert names == {"cell.yaml", "samples.parquet", "features.safetensors", "videos", "attempts.jsonl", "DONE"}
        assert sorted(path.name for path in (cell.root / "videos").iterdir()) == ["0000.mp4", "0001.mp4"]
        table = cell.samples()
        assert len(table["value"]) == 5 * 2 * 2 and set(table["seed"]) == {0, 1} and table["unit"][0] == "test-0-0"
        assert len(cell.features()["colour_distance.video"]) == 10
    for name in (
        "study.yaml",
        "environment.json",
        "results.csv",
        "report/report.html",
        "report/table.tex",
        "report/table.csv",
        "report/figures/forest.pdf",
        "report/figures/forest.png",
        "report/figures/strip-0000.png",
    ):
        assert (root / name).stat().st_size > 0, name
    assert not list(root.rglob("*.part*"))


def test_stages_run_exactly_as_often_as_planned(run: Run, pipe: Toy) -> None:
    planned = bench(pipe=pipe).plan.stage_runs()
    pipe.runs.clear()
    run()
    assert Counter(pipe.runs) == planned.shared
    assert planned.alone == dict.fromkeys(planned.shared, 5 * 6)
    # 3 groups of samples x 2 seeds; the text stage does not depend on the seed, the detail stage differs in every cell
    assert planned.shared == {"text": 2 * 3, "denoise": 2 * 6, "upsample.0": 3 * 6, "upsample.1": 3 * 6, "detail": 5 * 6}


def test_without_a_cache_everything_runs_and_the_numbers_are_the_same(run: Run, pipe: Toy) -> None:
    shared, _ = run("shared")
    pipe.runs.clear()
    alone, _ = run("alone", "cache.memory_gib=0")
    assert Counter(pipe.runs)["denoise"] == 5 * 6
    left, right = content(shared), content(alone)
    assert left.pop("study.yaml") != right.pop("study.yaml")
    assert left == right


def test_a_second_run_computes_nothing(run: Run, pipe: Toy) -> None:
    root, _ = run()
    before = content(root)
    pipe.runs.clear()
    _, outcome = run()
    assert pipe.runs == [] and outcome.done == [] and len(outcome.before) == 5
    assert content(root) == before


def test_stopping_anywhere_and_going_on_gives_the_same_bytes(run: Run, pipe: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = run("whole")
    for stop in (1, 7, 16, 29):
        calls, part = [], Workbench.part

        def interrupted(self: Workbench, task: Task, calls: list = calls, part: Any = part, stop: int = stop) -> Any:
            calls.append(task)
            if len(calls) == stop:
                raise KeyboardInterrupt
            return part(self, task)

        monkeypatch.setattr(Workbench, "part", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(f"stopped-{stop}")
        monkeypatch.setattr(Workbench, "part", part)
        resumed, _ = run(f"stopped-{stop}")
        assert content(resumed) == content(whole)


def test_a_failing_cell_is_recorded_and_the_others_go_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Workbench.part

    def failing(self: Workbench, task: Task) -> Any:
        if task.cell == "text" and task.chunk == 2:
            raise RuntimeError("out of luck")
        return part(self, task)

    monkeypatch.setattr(Workbench, "part", failing)
    said = io.StringIO()
    root, outcome = run(said=said, report=True)
    assert outcome.failed == {"text": "RuntimeError: out of luck"} and len(outcome.done) == 4
    assert "out of luck" in said.getvalue()
    log = [json.loads(line) for line in next(root.glob("cells/text-*/attempts.jsonl")).read_text().splitlines()]
    assert [line["state"] for line in log] == ["ok", "ok", "failed", "failed", "failed"] and "Traceback" in log[-1]["traceback"]
    assert [(line["chunk"], line["attempt"]) for line in log] == [(0, 1), (1, 1), (2, 1), (2, 2), (2, 3)]
    assert "Not finished" in (root / "report" / "report.html").read_text()
    monkeypatch.setattr(Workbench, "part", part)
    _, outcome = run()
    assert outcome.done == ["text"] and not outcome.failed


def test_a_ledger_that_does_not_agree_is_kept_with_the_failed_cell(run: Run) -> None:
    root, outcome = run("out", "cells.text={edits: [{kind: zero, at: 'generator.out', sigma: [5, 6]}]}")
    assert "never due" in outcome.failed["text"] and len(outcome.done) == 4
    [line] = [json.loads(line) for line in next(root.glob("cells/text-*/attempts.jsonl")).read_text().splitlines()]
    [told] = line["ledger"]["lines"]
    assert not line["ledger"]["ok"] and told["site"] == "generator.out" and "never due" in told["fault"]


def test_a_folder_of_another_study_is_refused_with_both_hashes(run: Run) -> None:
    run()
    old, new = (parse_study(STUDY, sets)[0].hash for sets in ([], ["data.n=4"]))
    with pytest.raises(RunFolderError, match=rf"(?s){old}.*{new}.*data.n: 5 -> 4"):
        run("out", "data.n=4")
    run("out", "report.videos=1")  # what cannot change a result may change


def test_foreign_and_damaged_folders_are_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match=r"holds other files"):
        run("full")
    root, _ = run("edited")
    text = (root / "study.yaml").read_text()
    (root / "study.yaml").write_text(text.replace("n: 5", "n: 6"))
    with pytest.raises(RunFolderError, match="damaged or edited"):
        run("edited")
    with pytest.raises(RunFolderError, match=r"study.yaml is a study file, not the record of a run; choose another"):
        run(".")


def test_a_folder_runs_once_at_a_time(run: Run, tmp_path: Path) -> None:
    root, _ = run()
    with open(root / ".lock", "r+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(RunFolderError, match="is being run by process"):
            run()


def test_a_truncated_result_is_noticed_and_made_again(run: Run) -> None:
    root, _ = run()
    before = content(root)
    for pattern in ("cells/text-*/samples.parquet", "cells/both-*/videos/0001.mp4"):
        path = next(root.glob(pattern))
        path.write_bytes(path.read_bytes()[:100])
    _, outcome = run()
    assert outcome.done == ["both", "text"]
    assert content(root) == before


def test_a_truncated_part_is_noticed_and_made_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = run("whole")
    whole_part, calls = Workbench.part, []

    def interrupted(self: Workbench, task: Task) -> Any:
        calls.append(task)
        if len(calls) == 18:
            raise KeyboardInterrupt
        return whole_part(self, task)

    monkeypatch.setattr(Workbench, "part", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("part")
    monkeypatch.setattr(Workbench, "part", whole_part)
    part = sorted((whole.parent / "part").glob("cells/text-*/parts/*"))[0]
    part.write_bytes(part.read_bytes()[:50])
    resumed, _ = run("part")
    assert content(resumed) == content(whole)


def test_a_full_disk_is_told_and_nothing_finished_is_lost(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    save, calls = store.save_file, []

    def full(*given: Any, **options: Any) -> None:
        calls.append(1)
        if len(calls) == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*given, **options)

    monkeypatch.setattr(store, "save_file", full)
    with pytest.raises(RunFolderError, match=r"the disk is full .* while writing .*parts/.*Nothing finished is lost"):
        run()
    monkeypatch.setattr(store, "save_file", save)
    root, _ = run()
    assert content(root) == content(run("other")[0])


def test_ctrl_c_waits_for_the_write_in_hand(tmp_path: Path) -> None:
    def slow(temporary: Path) -> None:
        temporary.write_text("half")
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.05)
        temporary.write_text("whole")

    before = signal.signal(signal.SIGINT, signal.default_int_handler)    # a shell's background jobs start with it ignored
    try:
        with pytest.raises(KeyboardInterrupt):
            store.write(tmp_path / "file", slow)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / "file").read_text() == "whole"


def test_sigkill_loses_at_most_the_batch_in_hand(run: Run, tmp_path: Path) -> None:
    whole, _ = run("whole")
    script = (
        f"import pathlib, sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "import torch; torch.set_num_threads(1)\n"
        "from tests.runs.toy import load_toy, resolve_toy\nfrom wanlab.runs.study import run_study\n"
        "from wanlab.runs import cell, environment, source\nsource.reading = lambda: 'd'\n"
        "cell.context_of = environment.context_of = lambda device: {'generate': 'g', 'measure': 'm'}\n"
        f"run_study(pathlib.Path({str(tmp_path / 'study.yaml')!r}), pathlib.Path({str(tmp_path / 'killed')!r}), device='cpu',\n"
        "          load=load_toy(), resolve=resolve_toy, report=False)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    parts = tmp_path / "killed" / "cells"
    deadline = time.monotonic() + 60
    while len(list(parts.glob("*/parts/*.safetensors"))) < 4 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    said = process.communicate()[1]
    assert process.returncode == -signal.SIGKILL, said
    kept = len(list(parts.glob("*/parts/*.safetensors")))
    assert kept >= 4
    resumed, _ = run("killed")
    assert content(resumed) == content(whole)
    lines = [json.loads(line) for path in parts.glob("*/attempts.jsonl") for line in path.read_text().splitlines()]
    assert 29 <= len(lines) <= 30  # a kill between a part and its line in the log costs the line, not the part
    assert (
        len(
            {
                (path.parent.name, json.loads(line)["chunk"])
                for path in parts.glob("*/attempts.jsonl")
                for line in path.read_text().splitlines()
            }
        )
        >= 29
    )


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("{ablate: text}", "{ablate: txet}", "cells.text.ablate.0: toy has no component 'txet'"),
        ("{swap: {detail: sharp}, pairs_with: detail}", "{swap: {detail: shrap}}", "cells.sharp.swap.detail: no variant 'shrap'"),
        ("{ablate: text}", "{edits: [{kind: zeroo, at: text.out}]}", "cells.text.edits.0: no kind of edit 'zeroo'"),
        ("{ablate: text}", "{edits: [{kind: zero, at: text.outt}]}", "text.outt"),
        ("{ablate: text}", "{edits: [{kind: zero, at: text.out, steps: '0:2'}]}", "text.out fires outside any step"),
        ("{ablate: text}", "{edits: [{kind: zero, at: generator.out, steps: [7]}]}", "steps"),
        ("psnr, flicker", "psnr, flickre", "metrics.1: unknown metric 'flickre'; nearest: flicker"),
        ("pipeline: toy", "pipeline: tyo", "pipeline: no preset 'tyo'"),
    ],
)
def test_what_the_pipeline_lacks_is_told_with_its_place(old: str, new: str, expected: str) -> None:
    text = STUDY.replace(old, new)
    assert text != STUDY
    with pytest.raises(StudyError) as caught:
        bench(text=text)
    assert expected in str(caught.value)
    assert str(caught.value).startswith("(text):")


def test_what_metrics_and_pipeline_lack_is_told_at_once() -> None:
    text = STUDY.replace("{ablate: text}", "{ablate: txet}").replace("detail: sharp", "detail: shrap").replace("flicker", "flickre")
    with pytest.raises(StudyError) as caught:
        bench(text=text)
    assert [problem.path for problem in caught.value.problems] == [
        ("cells", "text", "ablate", 0), ("cells", "sharp", "swap", "detail"), ("metrics", 1)]  # fmt: skip
    with pytest.raises(StudyError) as caught:
        bench(text=text.replace("pipeline: toy", "pipeline: tyo"))
    assert [problem.path for problem in caught.value.problems] == [("pipeline",), ("metrics", 1)]


def test_edits_limited_to_steps_change_only_what_they_should() -> None:
    cells = "{kind: bypass, at: generator.out, steps: [0]}"
    work = bench(text=STUDY.replace("{ablate: text}", f"{{edits: [{cells}]}}"))
    runs = work.plan.stage_runs().shared
    assert runs["text"] == 3 and runs["denoise"] == 12
    part, base = work.part(Task("text", 0)), work.part(Task("baseline", 0))
    assert part.values["psnr"] != base.values["psnr"]


def test_the_noise_of_a_sample_does_not_depend_on_its_batch() -> None:
    two, five = bench(), bench("batch=5")
    small = [two.part(Task("baseline", chunk)) for chunk in (0, 2, 4)]
    large = five.part(Task("baseline", 0))
    joined = torch.cat([torch.tensor(part.values["psnr"]) for part in small])
    torch.testing.assert_close(joined, torch.tensor(large.values["psnr"]), atol=1e-5, rtol=1e-5)


def test_baseline_as_reference_gives_distances_from_it() -> None:
    work = bench("reference=baseline")
    same, other = work.part(Task("baseline", 0)), work.part(Task("detail", 0))
    features = other.features
    assert torch.equal(same.features["colour_distance.video"], features["colour_distance.reference"])
    assert min(same.values["psnr"]) > max(other.values["psnr"])


def test_the_disk_cache_serves_another_run(run: Run, pipe: Toy, tmp_path: Path) -> None:
    first, _ = run("first", f"cache.disk={tmp_path / 'cache'}")
    pipe.runs.clear()
    second, _ = run("second", f"cache.disk={tmp_path / 'cache'}")
    assert pipe.runs == [] and content(first) == content(second)
    for path in (tmp_path / "cache").glob("*/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-7] + b"garbage")
    third, _ = run("third", f"cache.disk={tmp_path / 'cache'}")
    assert len(pipe.runs) > 0 and content(first) == content(third)


def test_groups_go_batch_by_batch_with_the_baseline_first() -> None:
    plan = bench("baseline=detail").plan
    groups = list(plan.groups())
    assert [group.chunk for group in groups] == [chunk for chunk in range(6) for _ in range(2)]
    assert {group.cells for group in groups} == {("detail", "baseline", "sharp", "both"), ("text",)}  # text denoises by itself
    assert list(groups[0])[2] == Task("sharp", 0)


def test_a_cell_that_raises_in_a_group_is_a_failure_and_the_others_give_parts() -> None:
    work = bench("cells.text={edits: [{kind: zero, at: 'generator.out', sigma: [5, 6]}]}")
    given = dict(work.evaluate(Group(0, ("baseline", "text", "both"))))
    assert list(given) == [Task("baseline", 0), Task("text", 0), Task("both", 0)]
    failure = given[Task("text", 0)]
    assert isinstance(failure, Failure) and "never due" in failure.message and "Traceback" in failure.traceback
    assert failure.ledger is not None and not failure.ledger["ok"]
    assert given[Task("both", 0)].values == bench().part(Task("both", 0)).values


def test_a_workbench_opens_again_from_plain_data_with_the_same_keys_and_numbers() -> None:
    work = bench("data.n=3", "seeds=[0]")
    spec = pickle.loads(pickle.dumps(replace(work.spec, load=None, resolve=None)))  # the toy's own loader is a closure
    assert isinstance(spec, WorkbenchSpec) and spec.resolved == work.study.resolved() and spec.device == "cpu"
    again = replace(spec, load=work.spec.load, resolve=work.spec.resolve).open()
    assert [(c.key, c.keys) for c in again.plan.cells.values()] == [(c.key, c.keys) for c in work.plan.cells.values()]
    assert again.part(Task("both", 1)).values == work.part(Task("both", 1)).values


def test_sharing_can_be_turned_off_and_changes_no_number(run: Run, pipe: Toy) -> None:
    shared, _ = run("shared")
    pipe.runs.clear()
    alone, _ = run("alone", "share.cache=false")
    assert Counter(pipe.runs) == dict.fromkeys(Counter(pipe.runs), 5 * 6)
    left, right = content(shared), content(alone)
    assert left.pop("study.yaml") != right.pop("study.yaml") and left == right
    hashes = [parse_study(STUDY, sets)[0].hash for sets in ([], ["share.cache=false", "share.fork=false"], ["share.pack=2"])]
    assert hashes[0] == hashes[1] != hashes[2]
