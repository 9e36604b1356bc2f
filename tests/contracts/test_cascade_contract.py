"""The cascade, small and with random weights, under the contract of pipelines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contracts.pipeline_contract import PipelineContract
from wanlab.pipelines.load import PRESETS, load


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory, device: str) -> Any:
    return small(tmp_path_factory.mktemp("small")).to(device)


def small(folder: Path, frames: int = 4) -> Any:
    """A preset like `tiny`, smaller: few frames, a 16 x 16 base video, 64 x 64 out."""
    preset = json.loads((PRESETS / "tiny" / "pipeline.json").read_text())
    preset |= {"name": "small", "size": 64, "frames": frames}
    for stage in preset["stages"].values():
        for variant in stage["variants"].values():
            variant.pop("file", None)
            variant["config"] |= {key: size for key, size in (("size", 16), ("output", 64)) if key in variant["config"]}
    (folder / "pipeline.json").write_text(json.dumps(preset))
    cascade, generator = load(folder, init="random"), torch.Generator().manual_seed(0)
    for parameter in cascade.parameters():      # layers that start at zero would hide what lies before them
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return cascade


class TestCascade(PipelineContract):
    chain = ["text.out", "fusion.resid_mid", "fusion.out", "generator.input", "generator.mid.resid_post",
             "generator.features", "sampler.video.velocity", "sampler.video.guided", "sampler.video.latent",
             "upsample.0.residual.skip", "upsample.0.out", "upsample.1.out", "detail.content", "detail.out"]
    block = "generator.mid.resid_post"
    pattern = "generator.mid.temporal.attn.pattern"
    word_map = "generator.mid.cross.attn.pattern"
    prediction = "sampler.video.velocity"
    latent = "sampler.video.latent"
    outside = "image.tokens"

