"""Presets do to a video what the programs they are named after do: written out here once more, step by step."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from metrics.protocol import PRESETS, preset, quantised

HEIGHT, WIDTH = 90, 130


@pytest.fixture(scope="module")
def video() -> Tensor:
    """One clip `b f c h w`, not yet in 8 bits, wider than high."""
    return torch.rand(1, 16, 3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0))


def short_side(frames: Tensor, side: int, **options: bool) -> Tensor:
    """Shorter side to `side`, longer to the ceil of its share, centre: as VideoGPT, common_metrics, content-debiased FVD."""
    h, w = frames.shape[-2:]
    scale = side / min(h, w)
    size = (side, math.ceil(w * scale)) if h < w else (math.ceil(h * scale), side)
    frames = functional.interpolate(frames, size, mode="bilinear", align_corners=False, **options)
    top, left = (frames.shape[-2] - side) // 2, (frames.shape[-1] - side) // 2
    return frames[..., top : top + side, left : left + side]


def squashed(frames: Tensor) -> Tensor:
    return functional.interpolate(frames, (224, 224), mode="bilinear", align_corners=False)


def tensorflow(frames: np.ndarray) -> np.ndarray:
    """TensorFlow 1's resize to 224 x 224, by its formula on whole rows and columns."""
    for axis in (-2, -1):
        at = np.arange(224, dtype=np.float64) * frames.shape[axis] / 224
        low = np.floor(at).astype(int)
        high, share = np.minimum(low + 1, frames.shape[axis] - 1), at - low
        share = share[:, None] if axis == -2 else share
        frames = np.take(frames, low, axis) * (1 - share) + np.take(frames, high, axis) * share
    return frames


def expected(name: str, x: Tensor) -> Tensor:
    """`f c 224 224` of `f c h w` in [0, 1]."""
    byte = (x * 255).to(torch.uint8)  # truncates
    if name == "styleganv":
        generated = 2 * x - 1  # what a generator gives
        return 2 * squashed((generated * 127.5 + 128).clamp(0, 255).to(torch.uint8).float()) / 255 - 1
    if name == "videogpt":
        return 2 * (short_side(byte.float() / 255, 224) - 0.5)
    if name == "tf1":
        return torch.from_numpy(2 * tensorflow(x.double().numpy() * 255) / 255 - 1).float()
    if name == "cm-styleganv":
        return (short_side(x, 224) - 0.5) * 2
    loaded = (short_side(x, 128, antialias=True) * 255).to(torch.uint8)
    if name == "cdfvd-i3d":
        return 2 * squashed(loaded.float()) / 255 - 1
    return squashed(loaded.float() / 255)


@pytest.mark.parametrize("name", ["styleganv", "videogpt", "tf1", "cm-styleganv", "cdfvd-i3d", "cdfvd-videomae"])
def test_a_preset_prepares_as_its_program(name: str, video: Tensor) -> None:
    for x in (video, video.transpose(-1, -2)):
        found = preset(name).prepare(x)[0].transpose(0, 1)
        assert found.shape == (16, 3, 224, 224)
        torch.testing.assert_close(found, expected(name, x[0]), rtol=0, atol=3e-5 if name == "tf1" else 2e-6)


def test_presets_differ_where_they_should(video: Tensor) -> None:
    names = ["styleganv", "videogpt", "tf1", "cm-styleganv", "cdfvd-i3d"]
    made = {name: preset(name).prepare(video) for name in names}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            assert float((made[a] - made[b]).abs().mean()) > 1e-3, (a, b)


def test_the_constants_of_the_field() -> None:
    assert {name: p.ddof for name, p in PRESETS.items() if p.ddof == 0} == {"styleganv": 0, "cdfvd-i3d": 0, "cdfvd-videomae": 0}
    assert {p.epsilon for n, p in PRESETS.items() if n in ("tf1", "styleganv", "cm-styleganv")} == {1e-3}
    assert preset("videogpt").epsilon == preset("cdfvd-i3d").epsilon == 1e-5
    assert (preset("styleganv").real, preset("styleganv").fake) == ("seeded", "first")
    assert all(p.frames == 16 for n, p in PRESETS.items() if n != "motionnet")
    assert {"styleganv", "videogpt", "tf1", "cm-styleganv", "cdfvd-i3d", "cdfvd-videomae", "motionnet"} <= set(PRESETS)
    with pytest.raises(FrozenInstanceError):
        preset("tf1").ddof = 0  # type: ignore[misc]


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18", "s3d"])
def test_torchvision_s_presets_are_its_transforms(name: str, video: Tensor) -> None:
    from torchvision.models.video import MC3_18_Weights, R3D_18_Weights, S3D_Weights

    kind = {"r3d_18": R3D_18_Weights, "mc3_18": MC3_18_Weights, "s3d": S3D_Weights}[name]
    torch.testing.assert_close(preset(name).prepare(video), kind.DEFAULT.transforms()(video), rtol=0, atol=1e-5)


def test_quantisation_keeps_8_bit_frames_and_differs_elsewhere() -> None:
    steps = torch.arange(256) / 255
    for how in ("truncate", "round", "none"):
        assert torch.equal(quantised(steps, how), steps)
    between = torch.tensor([0.4 / 255, 0.6 / 255, 254.6 / 255, 1.0])
    assert (quantised(between, "truncate") * 255).round().tolist() == [0, 0, 254, 255]
    assert (quantised(between, "round") * 255).round().tolist() == [0, 1, 255, 255]


def test_the_name_shows_what_is_not_the_preset_s() -> None:
    protocol = preset("styleganv")
    assert protocol.label("i3d:12345678") == "styleganv|16f|s1|i3d:12345678"
    assert protocol.with_clips(stride=8).label("i3d:1") == "styleganv|16f|s8|i3d:1"
    assert protocol.with_clips(frames=32, offset="first").label("i3d:1") == "styleganv|32f|s1|first|i3d:1"
    assert preset("motionnet").with_clips(stride=2).label("net:1") == "motionnet|8f|s2|net:1"
    assert protocol.label("i3d:1", 5) == "styleganv|16f|s1|seed5|i3d:1"
    assert protocol.with_clips(offset="first").label("i3d:1", 5) == "styleganv|16f|s1|first|i3d:1"      # where nothing is drawn


@pytest.mark.parametrize(("name", "frames", "message"), [
    ("videogpt", 8, "at least 9 frames, got 8"), ("motionnet", 9, "clips of 8 frames, got 9"), ("jedi", 32, "clips of 16 frames"),
])  # fmt: skip
def test_clips_that_a_network_cannot_take_are_refused(name: str, frames: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        preset(name).with_clips(frames=frames)


def test_bad_clips_and_names(video: Tensor) -> None:
    with pytest.raises(ValueError, match=r"8 frame.*at least 9"):
        preset("tf1").prepare(video[:, :8])
    with pytest.raises(ValueError, match="NaN"):
        preset("tf1").prepare(video * torch.nan)
    with pytest.raises(ValueError, match=r"no preset 'stylegan-v'; nearest: .*styleganv"):
        preset("stylegan-v")
