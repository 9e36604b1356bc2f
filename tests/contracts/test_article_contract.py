"""The article's system, its classes at small widths and with random weights, under the contract of pipelines."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.contracts.pipeline_contract import PipelineContract
from wanlab.pipelines.load import load


@pytest.fixture(scope="module")
def pipe(device: str) -> Any:
    cascade, generator = load("article-random-tiny", init="random"), torch.Generator().manual_seed(0)
    for parameter in cascade.parameters():      # layers that start at zero would hide what lies before them
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return cascade.to(device)


class TestArticle(PipelineContract):
    chain = ["text.projected", "text.out", "image.latent", "image.features", "image.projected", "fusion.resid_mid", "fusion.out",
             "generator.input", "generator.mid.resid_post", "generator.features", "sampler.video.velocity", "sampler.video.guided",
             "sampler.video.latent", "upsample.0.residual.skip", "upsample.0.out", "upsample.1.out", "detail.content", "detail.out"]
    block = "generator.mid.resid_post"
    pattern = "generator.mid.temporal.attn.pattern"
    word_map = "generator.mid.cross.attn.pattern"
    prediction = "sampler.video.velocity"
    latent = "sampler.video.latent"
    outside = "image.tokens"

    @pytest.mark.parametrize("rounds", [20])    # the cascade, of the same class, has a thousand
    def test_exceptions_at_random_sites_leave_the_model_as_it_was(self, pipe: Any, rounds: int) -> None:
        super().test_exceptions_at_random_sites_leave_the_model_as_it_was(pipe, rounds)
