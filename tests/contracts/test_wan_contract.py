"""Wan, small and with random weights, under the contract of pipelines."""

from __future__ import annotations

from functools import cached_property

import pytest
import torch

from tests.contracts.pipeline_contract import PipelineContract
from wanlab.pipelines.wan21 import Wan
from wanlab.pipelines.wan_parts import random_pipeline
from wanlab.pipelines.wan_presets import PRESETS


@pytest.fixture(scope="module")
def pipe() -> Wan:
    return random_pipeline(PRESETS["wan-random-tiny"])


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
