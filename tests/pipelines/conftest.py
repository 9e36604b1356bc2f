"""A cascade like the preset `tiny`, small enough to run many times: 4 frames, a 16 x 16 base video, 64 x 64 out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from wanlab.pipelines.cascade import Cascade
from wanlab.pipelines.load import PRESETS, load


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder without weights. Tests that write to it take a copy."""
    preset = json.loads((PRESETS / "tiny" / "pipeline.json").read_text())
    preset |= {"name": "small", "size": 64, "frames": 4, "sampler": {"steps": 2, "guidance": 2.0}}
    for stage in preset["stages"].values():
        for variant in stage["variants"].values():
            for key in ("file", "sha256", "provenance"):
                variant.pop(key, None)
            variant["config"] |= {key: size for key, size in (("size", 16), ("output", 64)) if key in variant["config"]}
    folder = tmp_path_factory.mktemp("small")
    (folder / "pipeline.json").write_text(json.dumps(preset))
    return folder


@pytest.fixture(scope="session")
def pipe(folder: Path) -> Cascade:
    """That cascade with random weights, and without the layers of zeros that would hide what lies before them."""
    cascade, generator = load(folder, init="random"), torch.Generator().manual_seed(0)
    for parameter in cascade.parameters():
        parameter.data += 0.02 * torch.randn(parameter.shape, generator=generator)
    return cascade
