"""What a training runs on: shares of a batch, precision, several processes, TensorBoard."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from wanlab import training
from wanlab.training import checkpoint, machine
from wanlab.training.base import train_base
from wanlab.training.descent import Descent
from wanlab.training.diffusion import Recipe
from wanlab.training.machine import Machine, machine_of

ROOT = Path(__file__).resolve().parents[2]
BASE = Recipe(steps=2, batch=2, clips=4, held=4, warmup=1, grounding_steps=1, grounding_batch=2, ships={"align": "flow_warp"})
LEVELS = {"kind": "cascade", "upsample": {"residual": {"clips": 4, "held": 1, "steps": [4, 2], "batch": [4, 4], "crop": [8, 8]}}}


def averages(folder: Path) -> dict[str, torch.Tensor]:
    """The averaged weights of both levels."""
    levels = [checkpoint.load(folder / f"upsample/residual.level{i}.pt")["average"] for i in (0, 1)]
    return {f"{i}.{name}": value for i, level in enumerate(levels) for name, value in level.items()}


def log(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_processes_take_every_nth_row() -> None:
    rows = torch.arange(7)
    shares = [Machine(rank=rank, processes=3).share(rows).tolist() for rank in range(3)]
    assert shares == [[0, 3, 6], [1, 4], [2, 5]] and torch.equal(Machine().share(rows), rows)
    assert Machine(rank=1, processes=3).whole().share(rows).tolist() == list(range(7))


def test_a_batch_with_fewer_rows_than_processes_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = r"upsample residual: batch is 4, and 5 processes .*at least 5"
    with monkeypatch.context() as patched, pytest.raises(ValueError, match=said):
        patched.setattr(machine, "machine_of", lambda *_: Machine(processes=5))
        training.run(LEVELS, tmp_path)
    assert not list(tmp_path.rglob("*"))
    training.run(LEVELS, tmp_path)
    with monkeypatch.context() as patched:                  # what is finished is kept, whatever it was trained with
        patched.setattr(machine, "machine_of", lambda *_: replace(Machine(processes=5), rank=1))
        patched.setattr(Machine, "wait", lambda _: None)
        assert training.run(LEVELS, tmp_path) == {}
    asked = Recipe(batch=64).batches, Recipe(batch=64, start="a.pt", distil_steps=1, train=("image",)).batches
    assert asked == ({"batch": 64, "grounding_batch": 32}, {"batch": 64, "distil_batch": 32})


def test_in_bfloat16_it_learns_nearly_the_same_and_weights_stay_float32(tmp_path: Path) -> None:
    found = {}
    for precision in machine.PRECISIONS:
        with machine.on(Machine(precision=precision)):
            found[precision] = train_base(BASE, tmp_path / precision)
    logs = {p: [row["loss"] for row in log(tmp_path / p / "diffusion.jsonl") if "loss" in row] for p in found}
    assert logs["bf16"] == pytest.approx(logs["float32"], rel=0.1) and logs["bf16"] != logs["float32"]
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in found["bf16"].parameters())
    assert "bf16" in json.loads((tmp_path / "bf16" / "provenance-align.flow_warp.json").read_text())["device"]


def test_settings_that_are_wrong_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown setting 'precison'; nearest: precision"):
        machine_of({"precison": "bf16"}, tmp_path)
    with pytest.raises(ValueError, match="precision is float32 or bf16, not 'fp16'; nearest: bf16"):
        machine_of({"precision": "fp16"}, tmp_path)


def test_figures_go_to_a_board_that_is_given(tmp_path: Path) -> None:
    told = []

    class Board:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, step))

        def flush(self) -> None:
            told.append("flushed")

    with machine.on(Machine(board=Board())):
        descent = Descent(nn.Linear(2, 1), steps=3, rate=0.1, path=tmp_path / "part" / "a.pt")
        for _ in descent:
            descent.down(descent.module.weight.square().sum(), extra=1.0)
    assert ("part/a/loss", 0) in told and ("part/a/grad", 2) in told and ("part/a/extra", 2) in told and told[-1] == "flushed"


def test_a_board_without_its_package_is_told_before_anything_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"tensorboard: true needs the package .*pip install 'wanlab\[tensorboard\]'"):
        training.run({**LEVELS, "machine": {"tensorboard": True}}, tmp_path)
    assert not list(tmp_path.rglob("*.pt"))


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="the extra tensorboard is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_shows_what_the_log_says(tmp_path: Path) -> None:
    with machine.on(machine_of({"tensorboard": True}, tmp_path)):
        descent = Descent(nn.Linear(2, 1), steps=3, rate=0.1, path=tmp_path / "part" / "a.pt")
        for _ in descent:
            descent.down(descent.module.weight.square().sum())
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    rows = log(tmp_path / "part" / "a.jsonl")
    assert [e.step for e in events.Scalars("part/a/loss")] == [row["step"] for row in rows]
    assert [e.value for e in events.Scalars("part/a/loss")] == pytest.approx([row["loss"] for row in rows], abs=1e-4)


@pytest.mark.slow
def test_two_processes_train_what_one_trains(tmp_path: Path) -> None:
    """Each on half of every batch, on the CPU: the same weights within rounding; files written once."""
    training.run({**LEVELS, "machine": {"device": "cpu"}}, tmp_path / "one")
    (tmp_path / "t.yaml").write_text(json.dumps({**LEVELS, "machine": {"device": "cpu"}}))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               "-m", "wanlab", "train", "t.yaml", "--out", "two"]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("upsample residual") == 1
    one, two = averages(tmp_path / "one"), averages(tmp_path / "two")
    worst = max((one[name] - two[name]).abs().max().item() for name in one)
    assert worst < 2e-4, worst
    assert "2 processes" in json.loads((tmp_path / "two/upsample/provenance-upsample.residual.json").read_text())["device"]
