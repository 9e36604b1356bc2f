"""What every engine keeps. A test class inherits `EngineContract` and gives `engine`; the reference is a plain loop."""

from __future__ import annotations

import hashlib
import io
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from tests.runs.toy import STUDY, Toy, resolve_toy
from wanlab.runs.cell import Failure, Workbench, open_workbench
from wanlab.runs.engine import Engine
from wanlab.runs.execution import ATTEMPTS, Outcome
from wanlab.runs.plan import Group, Task
from wanlab.runs.reading import parse_study
from wanlab.runs.store import Part, RunFolder
from wanlab.runs.study import run_study

PASSING = ("attempts.jsonl", "environment.json", "report.html")  # hold times, or the moment's commit


class Fragile(Toy):
    """A toy whose detail stage has further variants: `broken` raises, `deadly` kills its process, `once FILE` does so once."""

    harm = "none"

    def swap(self, stage: str, variant: str, init: str | None = None) -> Toy:
        if variant.split()[0] not in ("broken", "deadly", "once"):
            return super().swap(stage, variant, init)
        other = Fragile("plain", self.config["size"], self.config["frames"])
        other.text, other.generator, other.upsample, other.runs = self.text, self.generator, self.upsample, self.runs
        other.harm = variant
        torch.nn.init.constant_(other.detail.strength, 0.4)  # weights of its own, or the baseline's output would do for it
        return other

    def run_node(self, name: str, *given: Any, **options: Any) -> Any:
        kind, _, file = self.harm.partition(" ")
        if name == "detail" and kind == "broken":
            raise RuntimeError("out of luck")
        if name == "detail" and (kind == "deadly" or (kind == "once" and not Path(file).exists())):
            Path(file or os.devnull).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run_node(name, *given, **options)


def load_fragile(name: str, init: str | None = None) -> Toy:
    """A loader that another process can import."""
    return Fragile()


def content(root: Path) -> dict[str, str]:
    """Every file of a run folder with its digest; what holds times is left out."""
    files = [path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.startswith((".lock", *PASSING))]
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def run(out: Path, engine: Engine | str, *sets: str, said: io.StringIO | None = None, **given: Any) -> Outcome:
    """Run the toy study into a folder."""
    file = out.with_suffix(".yaml")
    file.write_text(STUDY)
    console = Console(file=said or io.StringIO(), width=200)
    given = {"load": load_fragile, "resolve": resolve_toy, "report": False, "threads_each": 1, **given}
    return run_study(file, out, sets, "cpu", engine, console, **given)[1]


def same(one: Part, other: Part) -> bool:
    """Whether two parts hold the same bits."""
    plain = [(p.index, p.seed, p.unit, p.prompt, repr(p.values), p.videos) for p in (one, other)]
    return plain[0] == plain[1] and all(torch.equal(one.features[name], other.features[name]) for name in one.features)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the reference."""
    root = tmp_path_factory.mktemp("whole") / "out"
    run(root, "inline")
    return root


class EngineContract:
    """The contract; `engine` gives a fresh engine."""

    def engine(self) -> Engine:
        raise LookupError("a test class says which engine it is about")

    @pytest.fixture
    def bench(self) -> Workbench:
        study, document = parse_study(STUDY, ["data.n=4", "cells.broken={swap: {detail: broken}}"])
        return open_workbench(study, document, "cpu", load_fragile, resolve_toy)

    def delivered(self, bench: Workbench, groups: Sequence[Group]) -> dict[Task, Part | Failure]:
        """What the engine gives for some groups, each task once."""
        found: dict[Task, Part | Failure] = {}
        engine = self.engine()

        def deliver(task: Task, result: Part | Failure) -> None:
            assert task not in found
            found[task] = result

        try:
            engine.prepare("cpu")
            engine.run(bench, groups, deliver)
        finally:
            engine.close()
        assert set(found) == {task for group in groups for task in group}
        return found

    def test_a_function_runs_where_tasks_do(self) -> None:
        engine = self.engine()
        try:
            engine.prepare("cpu")
            assert engine.there(sorted, [3, 1, 2]) == [1, 2, 3]
            with pytest.raises(TypeError):
                engine.there(len, 1)
        finally:
            engine.close()

    def test_each_task_comes_once_with_the_bits_of_a_plain_loop_in_any_order(self, bench: Workbench) -> None:
        groups = list(bench.plan.groups())
        given = self.delivered(bench, [Group(group.chunk, group.cells[::-1]) for group in groups[::-1]])
        for group in groups:
            for task, expected in bench.evaluate(group):
                result = given[task]
                if isinstance(expected, Failure):
                    assert isinstance(result, Failure) and result.message == expected.message == "RuntimeError: out of luck"
                    assert "engine_contract.py" in result.traceback
                else:
                    assert isinstance(result, Part) and same(result, expected)

    def test_groups_are_drawn_as_they_are_needed(self, bench: Workbench) -> None:
        engine, seen, counts = self.engine(), [], []

        def draw() -> Iterator[Group]:
            for group in bench.plan.groups():
                counts.append(len(seen))
                yield group

        try:
            engine.prepare("cpu")
            engine.run(bench, draw(), lambda task, result: seen.append(task))
        finally:
            engine.close()
        assert counts[0] == 0 and counts[-1] > 0, "the last group was drawn before the first result came"

    def test_a_folder_holds_the_same_bytes(self, whole: Path, tmp_path: Path) -> None:
        outcome = run(tmp_path / "out", self.engine())
        assert sorted(outcome.done) == sorted(RunFolder(whole).cells()) and not outcome.failed
        assert content(tmp_path / "out") == content(whole)

    def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(self, whole: Path, tmp_path: Path) -> None:
        engine, taken = self.engine(), []
        plain = engine.run

        def stopping(bench: Workbench, groups: Any, deliver: Any) -> None:
            def some(task: Task, result: Any) -> None:
                if len(taken) == 12:
                    raise KeyboardInterrupt
                taken.append(task)
                deliver(task, result)

            plain(bench, groups, some)

        engine.run = stopping  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "out", engine)
        assert len(list((tmp_path / "out").glob("cells/*/parts/*"))) + 6 * len(list((tmp_path / "out").glob("cells/*/DONE"))) == 12
        outcome = run(tmp_path / "out", self.engine())
        assert len(outcome.done) + len(outcome.before) == 5 and content(tmp_path / "out") == content(whole)
        lines = [line for cell in RunFolder(tmp_path / "out").cells().values() for line in cell.attempts()]
        assert len(lines) == 30, "a finished task ran again"
        began = [line for line in RunFolder(tmp_path / "out").attempts() if line["state"] == "began"]
        assert [line["engine"] for line in began] == [engine.name] * 2

    def test_a_cell_that_keeps_failing_is_given_up_and_the_rest_goes_on(self, whole: Path, tmp_path: Path) -> None:
        said = io.StringIO()
        outcome = run(tmp_path / "out", self.engine(), "cells.broken={swap: {detail: broken}}", said=said)
        assert outcome.failed == {"broken": "RuntimeError: out of luck"} and len(outcome.done) == 5
        [folder] = (tmp_path / "out" / "cells").glob("broken-*")
        lines = RunFolder(tmp_path / "out").cell(folder.name).attempts()
        assert {line["state"] for line in lines} == {"failed"} and "out of luck" in lines[-1]["traceback"]
        assert max(line["attempt"] for line in lines) == ATTEMPTS and "out of luck" in said.getvalue()
        others = {name: value for name, value in content(tmp_path / "out").items() if "broken" not in name and "/" in name}
        assert others == {name: value for name, value in content(whole).items() if "/" in name}
