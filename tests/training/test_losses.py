"""Losses of the cascade: against their formulas, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from wanlab.nn.vgg import Vgg
from wanlab.training import losses


def test_pixel_loss_is_l1_and_gradients() -> None:
    fake = torch.zeros(1, 1, 3, 4, 4)
    assert losses.pixel(fake, fake) == 0
    assert losses.pixel(fake + 0.5, fake).item() == pytest.approx(0.5)  # a constant has no gradients
    step = fake.clone()
    step[..., 2:] = 1
    assert losses.pixel(step, fake).item() == pytest.approx(0.5 + losses.GRADIENT / 3)


def test_pixel_loss_by_hand() -> None:
    real = torch.zeros(1, 1, 1, 2, 3)
    fake = torch.tensor([[1.0, 1.0, 4.0], [1.0, 1.0, 1.0]]).reshape(1, 1, 1, 2, 3)
    across, down = 3 / 4, 3 / 3                             # two differences in each row, one in each column
    assert losses.pixel(fake, real).item() == pytest.approx(9 / 6 + losses.GRADIENT * (across + down))


def test_content_is_the_distance_of_activations_relative_to_their_norm() -> None:
    real = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    fake = [torch.randn(2, 3, 4, 4), torch.randn(2, 5, 2, 2)]
    by_hand = sum((f - r).norm() / r.norm() for f, r in zip(fake, real, strict=True)) / 2
    assert losses.content(fake, real).item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert losses.content(real, real) < 1e-5
    with pytest.raises(ValueError, match="got 1 and 2"):
        losses.content(fake[:1], real)


def test_taps_see_every_frame_in_the_range_of_their_training() -> None:
    network, video = Vgg().eval(), torch.rand(2, 3, 3, 32, 32) * 2 - 1
    assert torch.allclose(losses.taps(network, video)[0][4], network((video[1, 1][None] + 1) / 2)[0][0], atol=1e-5)


@pytest.mark.parametrize("name", losses.GAN)
def test_gan_losses_fall_as_their_side_wins(name: str) -> None:
    generator, judge = losses.gan(name)
    low, high = torch.full((2, 1), -2.0), torch.full((2, 1), 2.0)
    assert generator(high, low) < generator(low, high)
    assert judge(low, high) < judge(high, low)


def test_the_articles_loss_is_minus_log_d() -> None:
    generator, judge = losses.gan("log")
    fake, real = torch.tensor([0.3]), torch.tensor([-0.7])
    d_fake, d_real = torch.sigmoid(fake).item(), torch.sigmoid(real).item()
    assert generator(fake, real).item() == pytest.approx(-math.log(d_fake), abs=1e-6)
    assert judge(fake, real).item() == pytest.approx(-math.log(d_real) - math.log(1 - d_fake), abs=1e-6)


def test_an_unknown_loss_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown GAN loss 'hing'; nearest: hinge"):
        losses.gan("hing")


def test_r1_is_the_squared_gradient_per_logit() -> None:
    x = torch.randn(4, 3, requires_grad=True)
    weight = torch.tensor([1.0, 2.0, -1.0])
    penalty = losses.r1((x @ weight)[:, None], [x])
    assert penalty.item() == pytest.approx(6.0, rel=1e-5)  # |w|^2 for each of the samples


def test_the_relativistic_average_is_its_formula() -> None:
    """Jolicoeur-Martineau 2019: each side's logits against the mean of the other's."""
    generator, judge = losses.gan("relativistic_average")
    fake, real = torch.tensor([0.3, -1.2, 2.0]), torch.tensor([-0.7, 0.4, 1.1])

    def d(one: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(one - others.mean())

    by_hand = -d(fake, real).log().mean() - (1 - d(real, fake)).log().mean()
    assert generator(fake, real).item() == pytest.approx(by_hand.item(), abs=1e-6)
    by_hand = -d(real, fake).log().mean() - (1 - d(fake, real)).log().mean()
    assert judge(fake, real).item() == pytest.approx(by_hand.item(), abs=1e-6)


def test_hinge_is_its_formula() -> None:
    generator, judge = losses.gan("hinge")
    fake, real = torch.tensor([0.3, -1.2]), torch.tensor([-0.7, 1.4])
    assert generator(fake, real).item() == pytest.approx(0.45)
    assert judge(fake, real).item() == pytest.approx((1.7 + 0) / 2 + (1.3 + 0) / 2)


def test_a_relativistic_discriminator_is_right_by_comparison() -> None:
    fake, real = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    assert losses.right("log", fake, real) == (0.0, 1.0)
    assert losses.right("relativistic_average", fake, real) == (1.0, 1.0)


def test_r1_of_patches_is_the_squared_gradient_of_their_sum_over_their_number() -> None:
    """Two samples of three logits; each logit is its own linear function of the sample."""
    x = torch.randn(2, 5, requires_grad=True)
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    assert losses.r1(x @ weight, [x]).item() == pytest.approx((weight.sum(1).square().sum() / 3).item(), rel=1e-4)
