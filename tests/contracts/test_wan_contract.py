"""Wan, small and with random weights, under the contract of pipelines: every kind of model that is published."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.contracts.pipeline_contract import PipelineContract
from tests.pipelines.wan import made, small
from wanlab.core import Replace
from wanlab.pipelines.wan21 import Wan
from wanlab.pipelines.wan_parts import random_pipeline
from wanlab.runs.witness import differences, state_of


@pytest.fixture(scope="class")
def pipe(request: pytest.FixtureRequest, device: str) -> Wan:
    return random_pipeline(replace(small(request.cls.kind), size=request.cls.size)).to(device)


class WanContract(PipelineContract):
    """The contract of one kind of model; kind as `tests.pipelines.wan.small` has it."""

    kind: str
    size: int | tuple[int, int] = 32
    block = "dit.blocks.1.resid_post"
    pattern = "dit.blocks.1.self_attn.pattern"
    word_map = "dit.blocks.1.cross_attn.pattern"
    prediction = "sampler.video.velocity"
    latent = "sampler.video.latent"

    @cached_property
    def image(self) -> Any:
        return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))


def chain(*encoders: str) -> list[str]:
    """The sites that a run of one transformer passes after some encoders."""
    return ["text.out", *encoders, "dit.patches", "dit.blocks.0.resid_pre", "dit.blocks.0.resid_mid", "dit.blocks.2.resid_post",
            "dit.head.out", "sampler.video.velocity", "sampler.video.guided", "sampler.video.latent", "vae.decoder.latent",
            "vae.decoder.out"]


class TestImageToVideo(WanContract):
    kind = "i2v"
    chain = chain("clip.out", "vae.encoder.latent")
    outside = "clip.out"

    def test_the_first_run_of_a_model_leaves_no_hook_and_no_attribute_in_other_libraries_modules(self) -> None:
        pipe = made()
        before = state_of(pipe)
        self.run(pipe, capture=["**"], steps=1)
        assert differences(before, state_of(pipe)) == []

    @pytest.mark.parametrize("site", ["vae.encoder.net.mid.out", "vae.decoder.net.mid.out", "clip.tower.blocks.2.resid_pre"])
    def test_a_run_that_fails_inside_another_librarys_module_leaves_none_of_its_tensors_there(self, pipe: Wan, site: str) -> None:
        def fail(x: Tensor) -> Tensor:
            raise ValueError("here")

        with pytest.raises(ValueError, match="here"):
            self.run(pipe, Replace(site, fail), steps=1)
        assert _held(pipe) == []


class Further(WanContract):
    """As another kind of model does, with fewer of the random failures."""

    @pytest.mark.parametrize("rounds", [20])
    def test_exceptions_at_random_sites_leave_the_model_as_it_was(self, pipe: Any, rounds: int) -> None:
        super().test_exceptions_at_random_sites_leave_the_model_as_it_was(pipe, rounds)


@pytest.mark.slow
class TestTextToVideo(Further):
    kind = "t2v"
    chain = chain()
    outside = "vae.decoder.latent"
    image = None


@pytest.mark.slow
class TestFirstAndLastFrame(Further):
    kind = "flf2v"
    chain = chain("clip.out", "vae.encoder.latent")
    outside = "vae.encoder.latent"

    @cached_property
    def more(self) -> dict[str, Any]:
        return {"last_image": torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1))}


@pytest.mark.slow
class TestTwoExperts(Further):
    """In two steps each has one."""

    kind = "a14b"
    few, steps = 2, 4
    chain = ["text.out", "vae.encoder.latent", "dit.high.patches", "dit.high.blocks.0.resid_mid", "dit.high.head.out",
             "sampler.video.velocity", "sampler.video.guided", "sampler.video.latent", "dit.low.patches",
             "dit.low.blocks.0.resid_mid", "dit.low.blocks.2.resid_post", "dit.low.head.out", "vae.decoder.latent",
             "vae.decoder.out"]
    block = "dit.high.blocks.1.resid_post"
    pattern = "dit.high.blocks.1.self_attn.pattern"
    word_map = "dit.low.blocks.1.cross_attn.pattern"
    outside = "vae.encoder.latent"


@pytest.mark.slow
class TestTimePerToken(Further):
    kind, size = "5b", (32, 64)         # two tokens to a frame
    chain = chain("vae.encoder.latent")
    outside = "vae.encoder.latent"


def _held(pipe: Wan) -> list[str]:
    """Lists of tensors among the plain attributes of a model's modules."""
    lists = ((path, key, value) for path, module in pipe.named_modules() for key, value in vars(module).items()
             if isinstance(value, list))
    return [f"{path}.{key}" for path, key, value in lists if any(isinstance(one, Tensor) for one in value)]
