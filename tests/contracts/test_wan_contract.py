"""Wan, small and with random weights, under the contract of pipelines."""

from __future__ import annotations

from functools import cached_property

import pytest
import torch

from tests.contracts.pipeline_contract import PipelineContract
from tests.pipelines.wan import made
from wanlab.pipelines.wan21 import Wan


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
