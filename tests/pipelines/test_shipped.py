"""The shipped preset stays what it is: the content keys of its weights, and the video that it makes of a fixed request."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

import wanlab
from wanlab.graph.configs import later, told

KEYS = {"text": "e7f799a3b05c2751", "image": "02c7d7de690826ff", "fusion": "0a363d033602d804", "generator": "6c1beac1d9e13b2b",
        "align": "dddb80ec9981118b", "upsample": "56cfe460b77fc045", "detail": "e371c69d63ca7a3a",
        "discriminator": "356f171311fa9b76"}
# Every fourth pixel of `video()` in float16, and the sha256 of all its bytes on the processor where it was made, on one thread.
VIDEO, SHA256 = Path(__file__).parent / "tiny_seed0.npz", "bbb767de8acf5da4"


def video() -> torch.Tensor:
    image = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))
    return wanlab.load("tiny").generate(image, "a red circle moves left", seed=0, steps=3).video


def processor() -> str:
    told = Path("/proc/cpuinfo")
    lines = told.read_text().splitlines() if told.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")


def test_the_content_keys_of_the_shipped_weights_are_what_they_were() -> None:
    pipe = wanlab.load("tiny")
    assert {stage: pipe.hash_of(stage)[:16] for stage in KEYS} == KEYS


def test_the_shipped_preset_makes_the_video_that_it_made() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        made = video()
    finally:
        torch.set_num_threads(threads)
    was = torch.from_numpy(np.load(VIDEO)["video"]).float()
    assert (made[..., ::4, ::4] - was).abs().max() <= 2e-3                 # half a step of 8-bit colour, on any machine
    if (torch.__version__[:4], torch.backends.cpu.get_cpu_capability(), processor()) == ("2.14", "AVX512", "AMD EPYC"):
        assert hashlib.sha256(made.numpy().tobytes()).hexdigest()[:16] == SHA256


@dataclass(frozen=True)
class Early:
    width: int = 4


@dataclass(frozen=True)
class Late:
    width: int = 4
    kind: str = later("plain")


def test_a_later_field_leaves_the_key_of_what_was_shipped_before_it() -> None:
    assert told(Early()) == repr(Early()) and told(Late()) == repr(Early()).replace("Early", "Late")
    assert told(Late(kind="other")) == "Late(width=4, kind='other')" and told(replace(Late(), width=5)) == "Late(width=5)"
