"""Adversarial training of the detail stage, in small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from wanlab.nn.vgg import Vgg
from wanlab.stages.detail import Config, Detail
from wanlab.stages.discriminator import Discriminator
from wanlab.training import adversarial
from wanlab.training.adversarial import Bank, Recipe, train_content, train_detail, train_texture
from wanlab.training.descent import Diverged
from wanlab.training.shipping import read

SMALL = {"clips": 3, "held": 1, "content_steps": 2, "gan_steps": 3, "batch": 2, "crop": 32}


@pytest.fixture(scope="module")
def network() -> Vgg:
    torch.manual_seed(3)
    return Vgg().eval().requires_grad_(False)


@pytest.fixture(scope="module")
def trained(network, tmp_path_factory) -> tuple[Path, dict[str, dict[str, float]]]:
    out = tmp_path_factory.mktemp("detail")
    return out, {variant: train_detail(Recipe(**SMALL, variant=variant), out, network) for variant in ("gan", "no_gan")}


def test_both_variants_are_handed_over_and_the_opponent(trained) -> None:
    out, figures = trained
    Detail(Config()).load_state_dict(read(out / "detail.gan.safetensors"))
    note = json.loads((out / "provenance-discriminator.gan.json").read_text())
    Discriminator.from_config(note["config"]).load_state_dict(read(out / "discriminator.gan.safetensors"))
    assert json.loads((out / "provenance-detail.no_gan.json").read_text())["metrics"] == figures["no_gan"]
    assert {"psnr.whole", "sharpness.content", "distance.whole", "colour.whole"} <= set(figures["gan"])


def test_variants_share_the_content_branch_and_differ_in_the_head(trained) -> None:
    with_gan, without = (read(trained[0] / f"detail.{variant}.safetensors") for variant in ("gan", "no_gan"))
    same = {name: torch.equal(with_gan[name], without[name]) for name in with_gan}
    assert all(same[name] for name in same if name.startswith("sharpen"))
    assert not all(same[name] for name in same if name.startswith("texture"))


def noise_bank() -> Bank:
    """A bank of noise."""
    generator = torch.Generator().manual_seed(0)
    shapes = (3, 3, 1, 3)
    return Bank(*(torch.randint(0, 256, (3, 5, c, 48, 48), generator=generator, dtype=torch.uint8) for c in shapes))


def texture(recipe: Recipe, network: Vgg, out: Path) -> tuple[Detail, Discriminator]:
    """Train the head on noise."""
    torch.manual_seed(0)
    module, opponent = (
        Detail(Config(width=8, blocks=1, gan_width=8, gan_blocks=1)),
        Discriminator(adversarial.discriminator.Config()),
    )
    descent = train_texture(recipe, noise_bank(), network, module, opponent, out)
    return descent.module, opponent


@pytest.mark.parametrize(("gan", "r1"), [("log", 0.0), ("hinge", 1.0), ("relativistic_average", 0.0)])
def test_a_stopped_duel_ends_as_an_unbroken_one(gan: str, r1: float, network, tmp_path: Path, monkeypatch) -> None:
    recipe = Recipe(**{**SMALL, "gan_steps": 4}, gan=gan, r1=r1)
    whole, judge = texture(recipe, network, tmp_path / "whole")
    calls = iter(range(9))
    real = adversarial.draw

    def stop(*args):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return real(*args)

    original = adversarial.Descent
    monkeypatch.setattr(adversarial, "Descent", lambda *a, **k: original(*a, **{**k, "save_every": 2}))
    monkeypatch.setattr(adversarial, "draw", stop)
    with pytest.raises(KeyboardInterrupt):
        texture(recipe, network, tmp_path / "broken")
    monkeypatch.setattr(adversarial, "draw", real)
    again, judge_again = texture(recipe, network, tmp_path / "broken")
    for one, other in ((whole, again), (judge, judge_again)):
        assert all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_the_log_says_how_the_duel_stands(network, tmp_path: Path) -> None:
    texture(Recipe(**{**SMALL, "gan_steps": 2}, r1=2.0), network, tmp_path)
    row = json.loads((tmp_path / "texture.gan.jsonl").read_text().splitlines()[-1])
    assert {"judge", "logit_real", "logit_fake", "right_real", "right_fake", "judge_grad", "r1"} <= row.keys()
    assert {"gan", "content", "pixel", "grad"} <= row.keys()
    assert row["r1"] > 0 and row["judge_grad"] > 0 and 0 <= row["right_real"] <= 1


def test_a_lazy_penalty_is_asked_for_every_few_steps_and_weighs_as_much_more(network, tmp_path: Path, monkeypatch) -> None:
    steps, real = [], adversarial.losses.r1
    monkeypatch.setattr(adversarial.losses, "r1", lambda *a: steps.append(1) or real(*a))
    recipe = {**SMALL, "gan_steps": 5}
    texture(Recipe(**recipe, r1=1.0, r1_every=2), network, tmp_path / "lazy")
    assert len(steps) == 3                                              # steps 0, 2, 4

    def first(every: int) -> torch.Tensor:
        """The discriminator after one step, in which a constant stands for the penalty of one logit."""
        monkeypatch.setattr(adversarial.losses, "r1", lambda logits, inputs: logits.mean())
        return torch.cat([p.flatten() for p in texture(Recipe(**{**SMALL, "gan_steps": 1}, r1=4.0 / every, r1_every=every), network,
                                                       tmp_path / f"every{every}")[1].parameters()])  # fmt: skip

    assert torch.equal(first(1), first(4))                              # 4 / 1 * 1 and 4 / 4 * 4
    with pytest.raises(ValueError, match="r1_every is a whole number from 1 on, not 0"):
        Recipe(r1_every=0)


def test_only_the_head_learns_in_the_second_phase(network, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Detail(Config(width=8, blocks=1, gan_width=8, gan_blocks=1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    opponent = Discriminator(adversarial.discriminator.Config())
    train_texture(Recipe(**SMALL), noise_bank(), network, module, opponent, tmp_path)
    moved = {name for name, value in module.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("texture.") for name in moved)


def test_a_loss_that_is_not_finite_names_step_clips_and_checkpoint(network, tmp_path: Path, monkeypatch) -> None:
    calls = iter(range(9))
    monkeypatch.setattr(
        adversarial,
        "faithfulness",
        lambda *a: (torch.tensor(float("nan") if next(calls) == 2 else 1.0, requires_grad=True), torch.zeros(()), []),
    )
    original = adversarial.Descent
    monkeypatch.setattr(adversarial, "Descent", lambda *a, **k: original(*a, **{**k, "save_every": 1}))
    with pytest.raises(Diverged, match=r"loss of content is nan at step 2 on clips \[\d, \d\]; .*content.pt at step 2"):
        train_content(Recipe(**{**SMALL, "content_steps": 5}), noise_bank(), network, tmp_path)


def test_a_gradient_of_the_discriminator_that_is_not_finite_stops_it_before_its_weights_change(network, tmp_path: Path) -> None:
    module, opponent = Detail(Config(8, 1, 8, 1)), Discriminator(adversarial.discriminator.Config())
    opponent.motion[0].bias.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: value.clone() for name, value in opponent.state_dict().items()}
    with pytest.raises(Diverged, match=r"the discriminator's gradient of texture.gan is \w+ at step 0 on clips \[\d, \d\]"):
        train_texture(Recipe(**SMALL), noise_bank(), network, module, opponent, tmp_path)
    assert all(torch.equal(value, before[name]) for name, value in opponent.state_dict().items())


def test_wrong_settings_are_told() -> None:
    with pytest.raises(ValueError, match="no variant 'gann'; nearest: gan"):
        Recipe(variant="gann")
    with pytest.raises(ValueError, match="unknown GAN loss"):
        Recipe(gan="lg")
    with pytest.raises(FileNotFoundError, match="train that stage first"):
        train_detail(Recipe(**SMALL, upsample="nowhere.safetensors"), Path("unused"), Vgg())
