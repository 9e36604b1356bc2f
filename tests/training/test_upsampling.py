"""Training of the x2 levels, in small: deterministic, resumable, shipped with its provenance."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from wanlab.stages.upsample import LEVELS, Config, Upsample
from wanlab.training import upsampling
from wanlab.training.settings import recipe_of
from wanlab.training.shipping import read
from wanlab.training.upsampling import Recipe, psnr, sharpness, train_upsampling

SMALL = {"clips": 3, "held": 1, "steps": (3, 2), "batch": (2, 2), "crop": (16, 16)}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("up")
    return out, train_upsampling(Recipe(**SMALL), out)


def test_it_hands_over_weights_figures_and_provenance(trained) -> None:
    out, figures = trained
    levels = nn.ModuleList(Upsample(config) for config in LEVELS)
    levels.load_state_dict(read(out / "upsample.residual.safetensors"))
    assert figures["psnr_first.1"] > figures["psnr_bicubic.1"] and figures["sharpness.0"] > 0
    note = json.loads((out / "provenance-upsample.residual.json").read_text())
    assert note["seed"] == 0 and note["steps"] == 5 and note["metrics"] == figures
    assert [Upsample.from_config(config).config for config in note["config"]["levels"]] == list(LEVELS)


def test_the_same_recipe_gives_the_same_bytes_and_a_finished_one_is_not_repeated(trained, tmp_path: Path) -> None:
    name = "upsample.residual.safetensors"
    train_upsampling(Recipe(**SMALL), tmp_path)
    assert (tmp_path / name).read_bytes() == (trained[0] / name).read_bytes()
    log = (tmp_path / "residual.level0.jsonl").read_text()
    train_upsampling(Recipe(**SMALL), tmp_path)
    assert (tmp_path / "residual.level0.jsonl").read_text() == log


def test_the_batch_of_a_step_depends_on_nothing_else() -> None:
    from wanlab.data.procedural import World

    pool, recipe = World(size=128).pool(4), Recipe(**SMALL)
    torch.manual_seed(1)
    one, rows = upsampling.draw(0, recipe, pool, 5)
    torch.manual_seed(2)
    other, again = upsampling.draw(0, recipe, pool, 5)
    assert rows == again and torch.equal(one.video, other.video) and torch.equal(one.reference, other.reference)


def test_no_residual_is_built_without_the_skips() -> None:
    build, link = upsampling.VARIANTS["no_residual"]
    assert build is Upsample and link == 0 and build(Config(link=link)).residual.link == 0


def test_wrong_settings_are_told() -> None:
    with pytest.raises(ValueError, match="unknown setting 'step'; nearest: steps"):
        recipe_of(Recipe, {"step": 3})
    with pytest.raises(ValueError, match="no variant 'residul'; nearest: residual"):
        Recipe(variant="residul")


def test_figures_by_hand() -> None:
    real = torch.zeros(2, 1, 3, 4, 4)
    assert psnr(real + 0.2, real).tolist() == pytest.approx([20.0, 20.0], abs=1e-4)  # 0.1 of the range
    ramp = torch.linspace(-1, 1, 4).expand(1, 1, 3, 4, 4)
    assert sharpness(ramp / 2, ramp).item() == pytest.approx(0.25)
