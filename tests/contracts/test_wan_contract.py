"""Wan, small and with random weights, under the contract of pipelines."""

from __future__ import annotations

from functools import cached_property

import pytest
import torch
from torch import Tensor

from tests.contracts.pipeline_contract import PipelineContract
from tests.pipelines.wan import made
from wanlab.core import Replace
from wanlab.pipelines.wan21 import Wan
from wanlab.runs.witness import differences, state_of


@pytest.fixture(scope="module")
def pipe() -> Wan:
    return made()


class TestWan(PipelineContract):
    chain = ["text.out", "clip.out", "vae.encoder.latent", "dit.patches", "dit.blocks.0.resid_pre", "dit.blocks.0.resid_mid",
             "dit.blocks.2.resid_post", "dit.head.out", "sampler.video.velocity", "sampler.video.guided", "sampler.video.latent",
             "vae.decoder.latent", "vae.decoder.out"]
    block = "dit.blocks.1.resid_post"
    pattern = "dit.blocks.1.self_attn.pattern"
    word_map = "dit.blocks.1.cross_attn.pattern"
    prediction = "sampler.video.velocity"
    latent = "sampler.video.latent"
    outside = "clip.out"

    @cached_property
    def image(self) -> torch.Tensor:
        return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0))

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


def _held(pipe: Wan) -> list[str]:
    """Lists of tensors among the plain attributes of a model's modules."""
    lists = ((path, key, value) for path, module in pipe.named_modules() for key, value in vars(module).items()
             if isinstance(value, list))
    return [f"{path}.{key}" for path, key, value in lists if any(isinstance(one, Tensor) for one in value)]
