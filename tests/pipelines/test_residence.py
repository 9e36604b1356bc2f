"""Stages that come and go: where they are, what the device holds at once, and that the video is the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from tests.pipelines.wan import made
from wanlab.pipelines.cost import bytes_of
from wanlab.pipelines.load import load
from wanlab.pipelines.residence import Residence, decide
from wanlab.pipelines.wan21 import Wan


class Device:
    """A device that counts: which modules are there, in which order they came and went, and how many bytes at the most."""

    def __init__(self, pipe: Wan) -> None:
        self.names = {id(module): name for name, module in pipe.named_modules()}
        self.there: dict[int, nn.Module] = {}
        self.log: list[str] = []
        self.peak = 0
        self.place = torch.device("cpu", 0)
        pipe.residence = Residence(pipe, torch.device("cpu"), self.place, self.move)

    def move(self, module: nn.Module, place: torch.device) -> None:
        if place == self.place:
            self.log.append(f"-{self.names[id(module)]}")
            del self.there[id(module)]
        else:
            self.log.append(f"+{self.names[id(module)]}")
            self.there[id(module)] = module
            self.peak = max(self.peak, bytes_of(list(self.there.values())))


def log_of(kind: str, **asked: Any) -> tuple[Device, Wan]:
    pipe = made(kind)
    image = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)) if pipe.takes_image else None
    plain = pipe.generate(image, "a cat", 1, **asked).video
    device = Device(pipe)
    assert torch.equal(pipe.generate(image, "a cat", 1, **asked).video, plain)
    return device, pipe


def test_each_stage_is_on_the_device_for_its_own_node_alone() -> None:
    device, pipe = log_of("i2v")
    assert device.log == ["+text", "-text", "+clip", "-clip", "+vae", "-vae", "+dit", "-dit", "+vae"]
    assert device.peak == max(bytes_of([stage]) for stage in (pipe.text, pipe.clip, pipe.vae, pipe.dit))


def test_of_two_experts_the_one_in_use_is_there() -> None:
    device, pipe = log_of("a14b")
    assert device.log == ["+text", "-text", "+vae", "-vae", "+dit.high", "-dit.high", "+dit.low", "-dit.low", "+vae"]
    assert device.peak < bytes_of([pipe.dit])


def test_a_segment_that_begins_late_brings_the_second_expert_alone() -> None:
    pipe = made("a14b")
    image = torch.zeros(3, 32, 32)
    whole = pipe.generate(image, "a cat", 1, steps=4)
    inputs = {name: whole.nodes[name] for name in pipe.node("denoise").inputs}
    state = pipe.run_node("denoise", inputs, whole.request, until=2)
    device = Device(pipe)
    out = pipe.run_node("denoise", inputs, whole.request, before=state)
    assert device.log == ["+dit.low"] and torch.equal(out["latent"], whole.nodes["denoise"]["latent"])


def test_a_node_that_fails_leaves_a_pipeline_that_runs() -> None:
    pipe = made("t2v")
    plain, device = pipe.generate(None, "a cat", 1).video, Device(pipe)
    with pytest.raises(RuntimeError, match="stop"):
        pipe.generate(None, "a cat", 1, progress=lambda done, steps: (_ for _ in ()).throw(RuntimeError("stop")))
    assert torch.equal(pipe.generate(None, "a cat", 1).video, plain)
    assert device.log == ["+text", "-text", "+dit", "-dit", "+text", "-text", "+dit", "-dit", "+vae"]


def test_attached_stages_and_gradients() -> None:
    pipe = made("t2v").staged("cpu")
    both = pipe.attach(load("tiny"))
    assert both.residence is not None and both.residence.here == []
    both.generate(None, "a dog", steps=1)
    assert both.residence.here == ["detail"]
    with pytest.raises(ValueError, match="offload=False"):
        pipe.generate(None, "a dog", steps=1, grad=True)
    assert pipe.to("cpu").residence is None


def test_offload_is_told_or_decided_by_what_is_free() -> None:
    cpu = torch.device("cpu")
    assert decide(True, cpu, lambda: 0) and not decide(False, cpu, lambda: 10**12) and not decide("auto", cpu, lambda: 10**12)
    assert decide("auto", cpu, lambda: 100, free=109) and not decide("auto", cpu, lambda: 100, free=111)
    with pytest.raises(ValueError, match="'sometimes'"):
        decide("sometimes", cpu, lambda: 0)
    assert load("wan-random-tiny-t2v", offload=True).residence is not None
    assert load("wan-random-tiny-t2v", offload="auto").residence is None and load("tiny", offload="auto").residence is None
    with pytest.raises(TypeError, match="offload is a setting of Wan"):
        load("tiny", offload=True)
