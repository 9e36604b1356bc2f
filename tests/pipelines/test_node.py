"""Hashes of weights: those that are there now, of a copy its own, and found again only after a change."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.runs.toy import STUDY, Detail, Toy
from wanlab.pipelines.base import Pipeline
from wanlab.pipelines.cascade import Cascade
from wanlab.runs.study import run_study

NO_GRAD = torch.no_grad()


def hashes(pipe: Pipeline) -> dict[str, str]:
    return {node.name: node.weights_hash for node in pipe.nodes}


def test_a_changed_copy_is_another_pipeline() -> None:
    pipe = Toy()
    before = hashes(pipe)
    other = copy.deepcopy(pipe)
    assert hashes(other) == before
    with NO_GRAD:
        for value in other.upsample.parameters():
            value.zero_()
    changed = {name for name, of in hashes(other).items() if of != before[name]}
    assert changed == {"upsample.0", "upsample.1"} and hashes(pipe) == before
    assert other.node("upsample.0").weights_hash == other.hash_of("upsample.0")


def test_a_copy_outlives_what_it_was_taken_of() -> None:
    pipe = Toy()
    assert pipe.nodes
    other = copy.deepcopy(pipe)
    del pipe
    gc.collect()
    assert other.weights_hash == Toy().weights_hash


@pytest.mark.parametrize("change", [
    lambda pipe: pipe.detail.strength.mul_(2),
    lambda pipe: pipe.detail.load_state_dict({"strength": torch.tensor([0.7])}),
    lambda pipe: setattr(pipe.detail.strength, "data", torch.tensor([0.7])),
    lambda pipe: setattr(pipe, "detail", Detail(0.7)),
    lambda pipe: pipe.double(),
    lambda pipe: setattr(pipe, "detail", nn.Identity()),
])  # fmt: skip
def test_a_change_is_seen(change: Callable[[Toy], object]) -> None:
    pipe = Toy()
    before = pipe.weights_hash
    with NO_GRAD:
        change(pipe)
    assert pipe.weights_hash != before and pipe.node("detail").weights_hash == pipe.hash_of("detail")


def test_unchanged_weights_are_read_once_wherever_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []
    plain = Toy.hash_of
    monkeypatch.setattr(Toy, "hash_of", lambda self, *stages: asked.append(stages) or plain(self, *stages))
    pipe = Toy().staged("cpu")
    before = hashes(pipe)
    for value in pipe.parameters():         # as a residence brings them to a device and home
        value.data = value.data.clone()
    assert hashes(pipe) == before and len(asked) == len(before)
    with NO_GRAD:
        pipe.detail.strength.mul_(2)
    assert hashes(pipe)["detail"] != before["detail"] and len(asked) == len(before) + 1


def test_a_study_of_a_changed_copy_does_not_take_the_others_results(tmp_path: Path) -> None:
    file = tmp_path / "toy.yaml"
    file.write_text(STUDY.replace(", colour_distance", ""))
    pipe = Toy()
    _, first = run_study(file, out=tmp_path / "run", load=lambda *_, **__: pipe, report=False)
    other = copy.deepcopy(pipe)
    with NO_GRAD:
        other.detail.strength.mul_(0)
    _, second = run_study(file, out=tmp_path / "run", load=lambda *_, **__: other, report=False)
    assert set(first.done) == {*second.done, *second.before} and set(second.before) == {"sharp"}     # whose detail is another


def test_a_pipeline_can_be_pickled(pipe: Cascade) -> None:
    again = pickle.loads(pickle.dumps(pipe))
    assert again.weights_hash == pipe.weights_hash and again.ablate("temporal") == pipe.ablate("temporal")
    assert len(again.sites()) == len(pipe.sites())
