"""The whole recipe in one go, in small: every part trains beside the others, and what comes out loads and samples."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import wanlab
from wanlab import training

SMALL = {
    "kind": "cascade",
    "preset": "tiny",
    "base": {
        "clips": 4, "held": 4, "steps": 1, "grounding_steps": 1, "batch": 2, "grounding_batch": 2,
        "ships": {"text": "t5", "image": "dit", "fusion": "cross_attention", "generator": "unet", "align": "flow_warp"},
    },
    "variants": {
        "no_align": {
            "clips": 4, "held": 4, "steps": 1, "batch": 2, "align": "none", "train": ["generator"],
            "ships": {"generator": "no_align"},
        },
    },
    "upsample": {
        name: {"clips": 2, "held": 1, "steps": [1, 1], "batch": [1, 1], "crop": [8, 8]}
        for name in ("residual", "no_residual")
    },
    "detail": {
        name: {"clips": 2, "held": 1, "content_steps": 1, "gan_steps": 1, "batch": 1, "crop": 16}
        for name in ("gan", "no_gan")
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("cascade")
    training.run(SMALL, out)
    return out


def test_every_variant_is_trained_and_loads(folder: Path) -> None:
    pipe = wanlab.load(str(folder / "pipeline"))
    for stage, variant in (("generator", "no_align"), ("upsample", "no_residual"), ("detail", "no_gan"), ("align", "none")):
        pipe = pipe.swap(stage, variant)
    out = pipe.generate(torch.rand(3, 128, 128), "a red circle moves left", seed=0, steps=1)
    assert out.video.shape == (1, 8, 3, 128, 128) and out.video.isfinite().all()


def test_what_is_finished_is_kept(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*.pt")}
    training.run(SMALL, folder)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*.pt")} == before
