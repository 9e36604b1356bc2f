"""The preset `small`: untrained, and its training file, with a few steps of every part."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

import wanlab
from wanlab import cli
from wanlab.pipelines.load import WeightsError

FILE = Path(__file__).resolve().parents[2] / "experiments" / "train" / "small.yaml"
FEW = {
    "base": "clips=2 held=2 batch=1 grounding_batch=1 grounding_steps=1 steps=1",
    "upsample.residual": "clips=1 held=1 steps=[1,1] batch=[1,1] crop=[16,16]",
    "detail.gan": "clips=1 held=1 content_steps=1 gan_steps=2 batch=1 crop=32",
}
MORE = ("only=[text.t5,upsample.residual,detail.gan]", "machine={device: cpu}")


def test_it_is_told_that_it_is_untrained_and_runs_where_that_is_wanted() -> None:
    with pytest.raises(WeightsError, match=r"has no weights .*init='random'"):
        wanlab.load("small")
    pipe = wanlab.load("small", init="meta")
    shapes = {site.name: site.shape for site in pipe.sites("{detail.out,generator.paint,generator.input}")}
    assert shapes["detail.out"][-4:] == (16, 3, 256, 256) and shapes["generator.paint"][-1] == 64
    assert 2 * sum(p.numel() for p in pipe.parameters()) < 40e6


@pytest.mark.slow
def test_its_training_file_trains_every_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = [f"{part}.{setting}" for part, settings in FEW.items() for setting in settings.split()]
    sets = [word for setting in (*few, *MORE) for word in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["wanlab", "train", str(FILE), "--out", str(tmp_path / "out"), *sets])
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert not left.value.code
    pipe = wanlab.load(tmp_path / "out" / "pipeline")
    assert pipe.config["frames"] == 16 and all(torch.isfinite(p).all() for p in pipe.parameters())
