"""Training of the base, in small: what it hands over, that a broken run ends as a whole one, and when it stops."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from wanlab.core import trace
from wanlab.data.procedural import World
from wanlab.diffusion.targets import target_of
from wanlab.pipelines.load import PRESETS
from wanlab.stages.text import Tokenizer
from wanlab.training import base as module
from wanlab.training import checkpoint
from wanlab.training.bank import bank
from wanlab.training.base import take_over, train_base
from wanlab.training.descent import Descent
from wanlab.training.diffusion import Base, Recipe, draw, dropped, importance, losses, noise_level, optimiser, schedule
from wanlab.training.distil import distil_losses
from wanlab.training.shipping import read

SMALL = Recipe(steps=3, batch=2, clips=4, held=4, warmup=1, grounding_steps=2, grounding_batch=2, validate_every=2, drop_align=0.5,
               drop_temporal=0.5, ships={"align": "flow_warp"})  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Base]:
    """A training that nobody interrupted."""
    out = tmp_path_factory.mktemp("base")
    return out, train_base(SMALL, out)


def same(one: nn.Module, other: nn.Module) -> bool:
    state = other.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def log(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_trains_both_phases_and_says_how_it_went(whole: tuple[Path, Base]) -> None:
    out, average = whole
    assert not same(average, Base(SMALL)) and all(torch.isfinite(p).all() for p in average.parameters())
    assert {"loss", "step", "seconds"} <= log(out / "grounding.jsonl")[0].keys()
    keys = set().union(*(row.keys() for row in log(out / "diffusion.jsonl")))
    assert {"video", "paint", "motion", "high", "motion_no_text", "slot_motion"} <= keys


def test_what_it_ships_are_the_averaged_weights_in_half_precision(whole: tuple[Path, Base]) -> None:
    out, average = whole
    shipped = read(out / "align.flow_warp.safetensors")
    assert all(torch.equal(shipped[name], value.half().float()) for name, value in average["align"].state_dict().items())
    note = json.loads((out / "provenance-align.flow_warp.json").read_text())
    assert note["steps"] == SMALL.steps and note["recipe"]["batch"] == SMALL.batch and "motion" in note["metrics"]


@contextmanager
def broken_off(until: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Within the block a training is killed after `until` steps, of which the last has its checkpoint."""
    down, done = Descent.down, [0]

    def killed(self: Descent, *args: Any, **kwargs: Any) -> None:
        down(self, *args, **kwargs)
        done[0] += 1
        if done[0] == until:
            self.save()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Descent, "down", killed)
        with pytest.raises(KeyboardInterrupt):
            yield


@pytest.mark.parametrize("until", [1, 2, 4])
def test_a_broken_training_ends_as_a_whole_one(
    whole: tuple[Path, Base], until: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a checkpoint: in the grounding, at its end, in the diffusion. Bit for bit, on one CPU."""
    with broken_off(until, monkeypatch):
        train_base(SMALL, tmp_path)
    torch.manual_seed(123)
    assert same(train_base(SMALL, tmp_path), whole[1])
    assert (tmp_path / "align.flow_warp.safetensors").read_bytes() == (whole[0] / "align.flow_warp.safetensors").read_bytes()


def test_a_finished_training_is_not_repeated(whole: tuple[Path, Base], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Descent, "down", lambda *args, **kwargs: pytest.fail("trained again"))
    assert same(train_base(SMALL, whole[0]), whole[1])


def test_a_loss_that_is_not_a_number_stops_it_and_leaves_the_checkpoint(
    whole: tuple[Path, Base], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = dataclasses.replace(SMALL, start=str(whole[0] / "diffusion.pt"))

    def poisoned(*args: Any) -> tuple[dict[str, Tensor], None, None]:
        terms, *rest = losses(*args)
        return {**terms, "video": terms["video"] * float("nan")}, *rest  # type: ignore[return-value]

    monkeypatch.setattr(module, "losses", poisoned)
    with pytest.raises(FloatingPointError, match="loss of diffusion is nan at step 0"):
        train_base(recipe, tmp_path)
    assert not (tmp_path / "diffusion.pt").exists() and checkpoint.load(whole[0] / "diffusion.pt")["step"] == SMALL.steps


def test_a_variant_starts_from_the_base_and_only_what_is_asked_learns(whole: tuple[Path, Base], tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALL, start=str(whole[0] / "diffusion.pt"), align="temporal_attention", train=("align",),
                                 steps=2, ships={"align": "temporal_attention"})  # fmt: skip
    variant = train_base(recipe, tmp_path)
    assert all(same(variant[stage], whole[1][stage]) for stage in ("text", "image", "fusion", "generator"))
    assert not same(variant["align"], Base(recipe)["align"])
    assert not (tmp_path / "grounding.pt").exists() and (tmp_path / "align.temporal_attention.safetensors").exists()


SHIPPED = PRESETS / "tiny"
DISTILLED = {
    "film": {"fusion": "film", "train": ("fusion", "classify"), "ships": {"fusion": "film"}},
    "conv": {"image": "conv", "train": ("image", "classify"), "ships": {"image": "conv"}},
    "deformable": {"align": "deformable", "train": ("align",), "ships": {"align": "deformable"}},
}


@pytest.mark.parametrize("name", DISTILLED)
def test_a_stage_of_another_kind_first_learns_to_give_what_the_shipped_one_gives(name: str, tmp_path: Path) -> None:
    recipe = dataclasses.replace(SMALL, start=str(SHIPPED), distil_steps=8, distil_batch=4, steps=1, **DISTILLED[name])
    trained = train_base(recipe, tmp_path)
    rows = log(tmp_path / "distil.jsonl")
    assert rows[-1]["step"] == 7 and rows[-1]["loss"] < rows[0]["loss"]
    shipped = Base(Recipe())
    take_over(shipped, SHIPPED)
    frozen = {"text", "image", "fusion", "generator", "align"} - set(recipe.train)
    assert all(same(trained[stage], shipped[stage]) for stage in frozen)
    stage, variant = next(iter(recipe.ships.items()))
    note = json.loads((tmp_path / f"provenance-{stage}.{variant}.json").read_text())
    assert note["recipe"]["distil_steps"] == 8 and note["recipe"]["start"] == "tiny"


def test_a_distilled_stage_that_gives_the_same_has_nothing_to_learn() -> None:
    shipped = Base(Recipe())
    take_over(shipped, SHIPPED)
    batch = draw(bank(World(size=64), 4, 32).read(shipped["text"].ids), 4, SMALL, torch.Generator().manual_seed(0))
    terms = distil_losses(shipped, shipped, batch, Recipe(train=("image", "fusion")), torch.Generator().manual_seed(0))
    assert {name: value.item() for name, value in terms.items() if name != "named"} == dict.fromkeys(terms.keys() - {"named"}, 0)
    with pytest.raises(ValueError, match="train generator has no teacher; image, fusion and deformable"):
        Recipe(train=("generator",), distil_steps=1, start=str(SHIPPED))
    with pytest.raises(ValueError, match="without start there is nothing to learn from"):
        dataclasses.replace(SMALL, distil_steps=1, grounding_steps=0)


def test_another_recipe_does_not_continue_a_checkpoint(whole: tuple[Path, Base]) -> None:
    with pytest.raises(ValueError, match=r"another recipe: rate was 0\.0015"):
        train_base(dataclasses.replace(SMALL, rate=1e-4), whole[0])


def test_a_bank_holds_the_worlds_clips_and_their_truth() -> None:
    world, tokenizer = World(size=64), Tokenizer(tuple(World(size=8).scene(0)[1].split()), 24)
    data, sample = bank(world, 3, 32).read(tokenizer), world[2]
    small = sample.video.unflatten(-1, (32, 2)).unflatten(-3, (32, 2)).mean((-1, -3))
    assert data.video.shape == (3, 8, 3, 32, 32) and (data.video[2].float() / 255 - small).abs().max() < 0.003
    assert torch.equal(data.motion[2], sample.motion) and data.masks.shape == (3, 3, 32, 32)
    shown = len(sample.factors["objects"])
    assert [bool((slot >= 0).all()) for slot in data.labels[2]] == [False] + shown * [True] + (2 - shown) * [False]


def test_text_and_image_are_dropped_at_the_recipes_rates() -> None:
    data = bank(World(size=64), 2, 32).read(Tokenizer(("a",), 24))
    recipe = Recipe(drop_text=0.2, drop_image=0.1)
    batch = draw(data._replace(video=data.video[..., :1, :1]), 4000, recipe, torch.Generator().manual_seed(0))
    assert (batch.ids[:, 0] == 0).float().mean() == pytest.approx(0.2, abs=0.03)
    assert (batch.present == 0).float().mean() == pytest.approx(0.1, abs=0.02)


def test_modules_are_dropped_by_the_edits_that_remove_them() -> None:
    base, always = Base(SMALL), Recipe(drop_temporal=1.0, drop_align=1.0)
    generator = torch.Generator().manual_seed(0)
    edits = dropped(base, always, generator)
    assert [str(edit.where.at) for edit in edits] == ["generator.**.temporal.out", "align.{out,valid,scope}"]
    assert not dropped(base, Recipe(drop_temporal=0.0, drop_align=0.0), generator)
    assert not dropped(base, dataclasses.replace(always, temporal=False, align="none"), generator)
    assert len(dropped(base, dataclasses.replace(always, train=("align",)), generator)) == 1
    data = bank(World(size=64), 2, 32).read(base["text"].ids)
    with trace(base, edits=edits) as t:
        losses(base, draw(data, 2, SMALL, generator), SMALL, generator)
    assert t.ledger.ok and len(t.ledger) > 5


def test_the_pictures_error_weighs_as_the_recipe_says() -> None:
    sigma = torch.tensor([0.05, 0.2, 0.5, 0.8, 1.0])
    snr = ((1 - sigma) / sigma) ** 2
    assert torch.equal(importance(Recipe(), sigma), 1 / sigma.clamp(min=0.3) ** 2)
    assert torch.allclose(importance(Recipe(weighting="plain"), sigma), 1 / sigma**2)
    assert torch.allclose(importance(Recipe(target="epsilon", weighting="plain"), sigma), snr)
    for target in ("epsilon", "v", "flow"):
        recipe = Recipe(target=target, weighting="min_snr", gamma=4.0)
        assert torch.allclose(importance(recipe, sigma), snr.clamp(max=4))
    with pytest.raises(ValueError, match="no weighting 'minsnr'; nearest: min_snr"):
        Recipe(weighting="minsnr")
    with pytest.raises(ValueError, match="no diffusion target 'velocity'"):
        Recipe(predicts="velocity")


@pytest.mark.parametrize("predicts", ["epsilon", "v", "flow"])
def test_a_unet_may_predict_something_else_of_the_video(predicts: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Told the truth as that, the prediction's paint is the clean video; untold, it learns."""
    base = Base(dataclasses.replace(SMALL, predicts=predicts))
    batch = draw(bank(World(size=64), 2, 32).read(base["text"].ids), 2, SMALL, torch.Generator().manual_seed(0))
    terms, _, sigma = losses(base, batch, SMALL, torch.Generator().manual_seed(1))
    (terms["video"] + terms["paint"]).backward()
    learned = base["generator"].to_pixels.weight.grad
    assert learned.isfinite().all() and learned.abs().sum() > 0

    clean, forward = 2 * batch.video - 1, base["generator"].forward
    level = sigma[:, None, None, None, None]

    def told(noisy: Tensor, *more: Any) -> Any:
        noise = (noisy - (1 - level) * clean) / level
        return forward(noisy, *more)._replace(paint=target_of(predicts, clean, noise, 1 - level, level))

    monkeypatch.setattr(base["generator"], "forward", told)
    _, out, _ = losses(base, batch, SMALL, torch.Generator().manual_seed(1))
    told_by_it = sigma < 0.99                             # noise alone says nothing of what is under it
    assert told_by_it.any() and torch.allclose(out.draft.paint[told_by_it], clean[told_by_it], atol=1e-3)


def test_noise_is_high_more_often_than_low_and_the_rate_warms_up_and_falls() -> None:
    sigma = noise_level(4000, torch.Generator().manual_seed(0))
    assert sigma.min() > 0 and sigma.max() <= 1 and (sigma > 0.5).float().mean() > 0.6
    rates = [schedule(step, 100, 10) for step in range(101)]
    assert rates[0] == pytest.approx(0.1) and max(rates) == rates[10] == 1 and rates[-1] == pytest.approx(0.01)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_the_optimiser_holds_every_parameter_that_learns_once() -> None:
    base = Base(SMALL)
    base["text"].requires_grad_(False)
    held = [id(p) for group in optimiser(base, 1e-3).param_groups for p in group["params"]]
    assert len(held) == len(set(held)) and set(held) == {id(p) for p in base.parameters() if p.requires_grad}
