"""The shipped networks judge only because they pass these: true clips are read, corruptions ordered by severity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from metrics import frechet_distance, weights
from metrics.lpips import lpips_distance
from metrics.motionnet import MotionNet
from wanlab.data.procedural import COLOURS, MOTIONS, SHAPES, World
from wanlab.measure import Batch, resolve

Corruption = Callable[[Tensor], Tensor]


ORDERS = ([0, 1, 2, 4, 3, 5, 6, 7], [0, 2, 1, 4, 3, 6, 5, 7], [4, 1, 6, 3, 0, 7, 2, 5])


def shuffled(degree: int) -> Corruption:
    """Exchanges one pair of neighbours, three pairs, or frames far apart; the same for every clip."""
    return lambda video: video[:, ORDERS[degree]]


def frozen(frames: int) -> Corruption:
    """The last so many frames repeat the one before them."""
    return lambda video: video[:, [min(t, 7 - frames) for t in range(8)]]


def blurred(radius: int) -> Corruption:
    """A box blur of 2 r + 1 pixels."""
    size = 2 * radius + 1
    return lambda v: functional.avg_pool2d(
        functional.pad(v.flatten(0, 1), (radius,) * 4, mode="replicate"), size, 1
    ).unflatten(0, v.shape[:2])


def noisy(sigma: float) -> Corruption:
    """White noise."""
    return lambda video: (
        video + sigma * torch.randn(video.shape, generator=torch.Generator().manual_seed(1))
    ).clamp(0, 1)


def tinted(amount: float) -> Corruption:
    """A colour cast."""
    return lambda video: (video + amount * torch.tensor([1.0, -0.5, -0.5])[:, None, None]).clamp(0, 1)


def backwards(share: float) -> Corruption:
    """Reverses the first part of the clips."""
    return lambda video: torch.cat([video[: int(share * len(video))].flip(1), video[int(share * len(video)) :]])


Orders = dict[str, list[float]]
SERIES: dict[str, list[Corruption]] = {
    "shuffle": [shuffled(k) for k in (0, 1, 2)],
    "freeze": [frozen(k) for k in (2, 4, 7)],
    "reverse": [backwards(s) for s in (0.25, 0.5, 1.0)],
    "blur": [blurred(k) for k in (1, 3, 6)],
    "noise": [noisy(s) for s in (0.03, 0.08, 0.2)],
    "hue": [tinted(a) for a in (0.03, 0.08, 0.2)],
}


@cache
def clips(split: str, n: int, seed: int) -> Tensor:
    return World(size=64, split=split, seed=seed).batch(range(n)).video


def orders(network: MotionNet, n: int, degrees: Sequence[int] = (0, 1, 2), names: Sequence[str] = tuple(SERIES)) -> Orders:
    """Frechet distances of `n` clips to half as many more others, by corruption: clean first, then the given severities."""
    reference = network.features(clips("train", 3 * n // 2, 1))
    video = clips("test", n, 2)
    clean = float(frechet_distance(network.features(video), reference))
    return {
        name: [clean, *(float(frechet_distance(network.features(series[k](video)), reference)) for k in degrees)]
        for name, series in SERIES.items() if name in names
    }  # fmt: skip


def shipped() -> MotionNet:
    network = MotionNet(len(COLOURS), len(SHAPES), len(MOTIONS))
    weights.load_into(network, "motionnet")
    return network


def rising(values: list[float]) -> bool:
    return all(a < b for a, b in pairwise(values))


def test_fvd_sees_every_kind_of_corruption() -> None:
    found = orders(shipped(), 32, degrees=(2,))
    assert {name for name, values in found.items() if not rising(values)} == set(), found


@pytest.mark.slow
def test_fvd_orders_corruptions_by_severity_and_a_random_network_does_not() -> None:
    found = orders(shipped(), 128)
    assert {name for name, values in found.items() if not rising(values)} == set(), found
    torch.manual_seed(0)
    blind = orders(MotionNet(len(COLOURS), len(SHAPES), len(MOTIONS)).eval(), 128, degrees=(2,), names=("reverse",))
    assert found["reverse"][-1] > 1.5 * found["reverse"][0] and blind["reverse"][-1] < 1.01 * blind["reverse"][0]


def test_lpips_orders_corruptions_and_is_zero_for_a_copy() -> None:
    video = clips("test", 4, 4)
    assert float(lpips_distance(video, video).max()) == 0
    for name in ("blur", "noise", "hue"):
        values = [float(lpips_distance(harm(video), video).mean()) for harm in SERIES[name]]
        assert rising([0.0, *values]), (name, values)


def accuracies(n: int) -> tuple[float, float]:
    """Motion and shape accuracy of true test clips at 128 pixels, mean over samples."""
    world, (motion, shape) = World(size=128, split="test", seed=9), resolve(["motion_accuracy", "shape_accuracy"])
    values: tuple[list[Tensor], list[Tensor]] = ([], [])
    for first in range(0, n, 16):
        clips = world.batch(range(first, first + 16))
        batch = Batch(video=clips.video, factors=clips.factors)
        for found, judge in zip(values, (motion, shape), strict=True):
            found.append(judge.score(batch))
    return tuple(float(torch.cat(found).nanmean()) for found in values)  # type: ignore[return-value]


def test_tracker_and_shape_judge_read_true_clips() -> None:
    assert min(accuracies(64)) >= 0.98


@pytest.mark.slow
def test_tracker_and_shape_judge_read_many_true_clips() -> None:
    assert min(accuracies(512)) >= 0.98


def test_the_files_are_those_that_were_trained() -> None:
    known = weights.provenance()
    assert set(known) == {"motionnet", "shapejudge", "frametrunk"}
    for name, entry in known.items():
        path = weights.FOLDER / f"{name}.safetensors"
        assert weights.sha256(path) == entry["sha256"] and path.stat().st_size <= 3_000_000
        assert {"study", "recipe", "device", "figures"} <= set(entry) and "seed" in entry["recipe"]


def test_a_changed_file_and_an_unknown_network_are_refused(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyError, match="no network 'resnet'"):
        weights.short_hash("resnet")
    monkeypatch.setitem(weights.provenance(), "shapejudge", {**weights.entry("shapejudge"), "sha256": "0" * 64})
    with pytest.raises(ValueError, match="is not the trained file"):
        weights.read("shapejudge")
