"""Training of the judges: deterministic, resumable at any step, and loud when it goes wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from wanlab.data.procedural import World
from wanlab.nn.vgg import Vgg, content_network
from wanlab.training import judge_data, judges
from wanlab.training.watch import Watch, watched_by

SMALL = {
    "vgg": {"seed": 1, "steps": 2, "batch": 4, "rate": 1e-3, "frames": 2, "cuts": 2},
    "shapejudge": {"seed": 1, "steps": 2, "batch": 4, "rate": 1e-3, "clips": 6},
    "motionnet": {"seed": 1, "steps": 2, "batch": 4, "rate": 1e-3},
    "frametrunk": {"seed": 1, "steps": 2, "batch": 4, "rate": 1e-3, "frames": 2, "cuts": 2},
}


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges, "VALIDATION", 8)


def test_every_network_trains_twice_to_the_same_bytes_and_is_then_kept(tmp_path: Path) -> None:
    seen: list[bool] = []

    class Counting(Watch):
        def part(self, name: str, number: int, total: int, kept: bool = False) -> None:
            seen.append(kept)

    with watched_by(Counting()):
        first, second, _ = (judges.train({"networks": SMALL}, tmp_path / run) for run in "aba")
    assert seen == [False] * 2 * len(SMALL) + [True] * len(SMALL)
    assert set(first) == set(SMALL)
    for name in SMALL:
        a, b = (tmp_path / run / f"{name}.safetensors" for run in "ab")
        assert a.read_bytes() == b.read_bytes()
    assert second["motionnet"]["figures"].keys() >= {"val_motion", "processor_minutes", "wall_minutes"}


@pytest.mark.parametrize(("config", "expected"), [
    ({"networks": {"motion_net": {}}}, "unknown network 'motion_net'; nearest: motionnet"),
    ({"networks": {"motionnet": 3}}, "motionnet: its settings are a mapping"),
    ({"networks": {"motionnet": {**SMALL["motionnet"], "stesp": 3}}}, "motionnet: unknown setting 'stesp'; nearest: steps"),
    ({"networks": {"vgg": {"seed": 1, "steps": 2, "batch": 4}}}, "vgg: settings are missing: cuts, frames, rate"),
    ({"network": {}}, "a training of judges has networks"),
    ({"networks": SMALL, "machine": {"device": "cuda"}}, "has kind and networks, and no 'machine': it runs on the CPU"),
    ({"networks": {"motionnet": {**SMALL["motionnet"], "rate": "fast"}}}, "motionnet.rate is a number, such as 0.001, not 'fast'"),
    ({"networks": {"motionnet": {**SMALL["motionnet"], "batch": 0}}}, "motionnet.batch is a whole number from 1 on, not 0"),
    ({"networks": {"vgg": {**SMALL["vgg"], "cuts": 5}}}, "vgg: a clip gives 5 crops, and a batch has 4"),
])  # fmt: skip
def test_a_wrong_file_is_told(config: dict, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=expected):
        judges.train(config, tmp_path)


class Stopping(Watch):
    """Asks for an end after so many steps of each network; `begun` tells where each began, and from what."""

    def __init__(self, after: int) -> None:
        self.after, self.begun = after, []

    def begin(self, name: str, done: int, steps: int, checkpoint: Path | None = None) -> None:
        self.stopping = False
        self.begun.append((name, done, checkpoint))

    def step(self, done: int, loss: float) -> None:
        self.stopping = done >= self.after - 1  # it is asked before it is told of a step


@pytest.mark.parametrize("name", SMALL)
def test_an_interrupted_judge_goes_on_where_it_was_and_ends_as_an_unbroken_one(name: str, tmp_path: Path) -> None:
    config = {"networks": {name: {**SMALL[name], "steps": 4}}}
    whole = judges.train(config, tmp_path / "whole")
    checkpoint = tmp_path / "broken" / f"{name}.pt"
    with watched_by(Stopping(2)), pytest.raises(KeyboardInterrupt):
        judges.train(config, tmp_path / "broken")
    assert checkpoint.exists() and not checkpoint.with_suffix(".safetensors").exists()
    with pytest.raises(ValueError, match=rf"{name}\.pt was trained with another recipe: rate was 0.001"):
        judges.train({"networks": {name: {**config["networks"][name], "rate": 2e-3}}}, tmp_path / "broken")
    with watched_by(Stopping(9)) as watch:
        broken = judges.train(config, tmp_path / "broken")
    assert watch.begun == [(f"broken/{name}", 2, checkpoint)]
    left, right = (tmp_path / run / f"{name}.safetensors" for run in ("whole", "broken"))
    assert left.read_bytes() == right.read_bytes() and not checkpoint.exists()
    figures = (found[name]["figures"] | {"processor_minutes": 0, "wall_minutes": 0} for found in (whole, broken))
    assert next(figures) == next(figures)


def test_a_judge_whose_recipe_changed_after_it_was_finished_is_trained_anew(tmp_path: Path) -> None:
    made = []
    for rate in (1e-3, 2e-3):
        judges.train({"networks": {"motionnet": {**SMALL["motionnet"], "rate": rate}}}, tmp_path)
        made.append((tmp_path / "motionnet.safetensors").read_bytes())
    assert made[0] != made[1]


def test_a_diverging_loss_is_named(tmp_path: Path) -> None:
    def broken(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return network(x).sum() * torch.nan

    ones = judge_data.ShapeBatches(torch.zeros(1, 3, 8, 8), torch.zeros(1), 1, 0)
    with pytest.raises(FloatingPointError, match="the loss of one is nan at step 0; no checkpoint was saved before it"):
        judges.fit(nn.Linear(8, 1), ones, lambda network, batch: broken(network, batch[0]), tmp_path / "one.pt",
                   {"steps": 1, "rate": 1.0})  # fmt: skip


def test_crops_show_what_their_labels_say() -> None:
    batch = judge_data.crops(World(size=96, frames=2, split="train"), 0, 24, seed=0, cuts=2)
    assert batch.images.shape == (48, 3, 64, 64) and float(batch.images.min()) >= 0 and float(batch.images.max()) <= 1
    assert batch.colour.shape == (48, 6) and batch.shape.shape == (48, 5) and float(batch.harm.max()) <= 1
    assert float((batch.colour.nan_to_num() > 0).any(1).float().mean()) > 0.3
    again = judge_data.crops(World(size=96, frames=2, split="train"), 0, 24, seed=0, cuts=2)
    assert torch.equal(batch.images, again.images)


def test_mirrored_clips_exchange_left_and_right() -> None:
    world = World(size=32, split="train")
    found = judge_data.clips(world, 0, 40, seed=0, size=32)
    plain = torch.stack([world[i].video for i in range(40)])
    flipped = (found.videos - plain.flip(-1)).abs().amax((1, 2, 3, 4)) < 1e-5
    assert 8 < int(flipped.sum()) < 32
    left, right = (judge_data.MOTIONS.index(name) for name in ("left", "right"))
    for index in range(40):
        for thing in world[index].factors["objects"]:
            told = int(found.motion[index, judge_data.PALETTE.index(thing["colour"])])
            expected = judge_data.MOTIONS.index(thing["motion"])
            if flipped[index] and expected in (left, right):
                expected = left + right - expected
            assert told == expected


def test_degradation_grows_with_its_label() -> None:
    images = torch.rand(64, 3, 32, 32)
    degraded, harm = judge_data.degrade(images, np.random.default_rng(0))
    change = (degraded - images).abs().mean((1, 2, 3))
    untouched = harm.sum(1) == 0
    assert untouched.any() and float(change[untouched].max()) < 1e-6
    assert float(change[harm.sum(1) > 0.5].min()) > 0.02


def test_the_content_network_ships_frozen_and_sees_texture() -> None:
    network = content_network()
    assert not any(parameter.requires_grad for parameter in network.parameters())
    image = World(size=64, split="val")[0].video[:1]
    blurred = torch.nn.functional.avg_pool2d(image, 3, 1, 1)
    clean, soft = network(image), network(blurred)
    assert [tap.shape[-1] for tap in clean] == [64, 32, 16, 8, 4]
    change = [float((a - b).square().mean() / a.square().mean()) for a, b in zip(clean, soft, strict=True)]
    assert min(change[:4]) > 0.02
    with pytest.raises(ValueError, match="sides of at least 16"):
        network(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="one depth per block"):
        Vgg((8, 16), (1,))


def test_taps_of_the_content_network_are_sites() -> None:
    from wanlab.core import sites_of

    assert [site.name for site in sites_of(Vgg())] == ["tap1", "tap2", "tap3", "tap4", "tap5"]
