"""Targets of diffusion: inverses and weights against their closed forms, diffusers' scheduler, and the sampler."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wanlab.diffusion.sampler import Sampler, draw_noise
from wanlab.diffusion.targets import FLOOR, TARGETS, clean, min_snr, target_of, weight

LEVELS = torch.linspace(0.05, 0.95, 13)


def levels(path: str) -> tuple[Tensor, Tensor]:
    """alpha and sigma (b 1) of the straight path, or of the one that keeps the variance."""
    sigma = LEVELS[:, None]
    return (1 - sigma if path == "straight" else (1 - sigma**2).sqrt()), sigma


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(len(LEVELS), 40, generator=generator), torch.randn(len(LEVELS), 40, generator=generator)


CASES = [(target, path) for target in TARGETS for path in ("straight", "circle") if (target, path) != ("flow", "circle")]


@pytest.mark.parametrize(("target", "path"), CASES)
def test_x0_comes_back_from_every_target(target: str, path: str, pair: tuple[Tensor, Tensor]) -> None:
    x0, noise = pair
    alpha, sigma = levels(path)
    x = alpha * x0 + sigma * noise
    assert torch.allclose(clean(target, x, target_of(target, x0, noise, alpha, sigma), alpha, sigma), x0, atol=1e-4)


@pytest.mark.parametrize(("target", "path"), CASES)
def test_the_weight_makes_an_error_of_x0_one_of_the_target(target: str, path: str, pair: tuple[Tensor, Tensor]) -> None:
    """Two guesses at one noisy state: what they differ by as targets, from what they differ by as x0."""
    x0, noise = pair
    alpha, sigma = levels(path)
    x, guess = alpha * x0 + sigma * noise, x0 + 0.3 * torch.randn(x0.shape, generator=torch.Generator().manual_seed(1))
    seen = [target_of(target, one, (x - alpha * one) / sigma, alpha, sigma) for one in (x0, guess)]
    error = (seen[0] - seen[1]).square().mean(1)
    assert torch.allclose(error, weight(target, alpha, sigma)[:, 0] * (x0 - guess).square().mean(1), rtol=1e-3)


def test_noise_and_v_are_those_of_diffusers(pair: tuple[Tensor, Tensor]) -> None:
    from diffusers import DDPMScheduler

    scheduler, times = DDPMScheduler(), torch.tensor([1, 50, 300, 700, 950])
    x0, noise = (x[:5] for x in pair)
    total = scheduler.alphas_cumprod[times][:, None]
    alpha, sigma = total.sqrt(), (1 - total).sqrt()
    assert torch.allclose(target_of("v", x0, noise, alpha, sigma), scheduler.get_velocity(x0, noise, times), atol=1e-5)
    noisy = scheduler.add_noise(x0, noise, times)
    assert torch.allclose(clean("epsilon", noisy, noise, alpha, sigma)[:4], x0[:4], atol=1e-3)


def test_weights_are_the_published_functions_of_the_signal_to_noise_ratio() -> None:
    alpha, sigma = levels("circle")
    snr = alpha**2 / sigma**2
    assert torch.allclose(weight("epsilon", alpha, sigma), snr) and torch.allclose(weight("v", alpha, sigma), snr + 1, rtol=1e-4)
    assert torch.equal(weight("x0", alpha, sigma), torch.ones_like(snr))
    capped = min_snr(alpha, sigma, 5.0)
    assert torch.allclose(capped, snr.clamp(max=5)) and capped.max() == 5 and capped.min() < 0.2
    assert torch.allclose(capped / weight("epsilon", alpha, sigma), torch.minimum(snr, torch.tensor(5.0)) / snr)
    straight = levels("straight")
    assert torch.allclose(weight("flow", *straight), 1 / LEVELS[:, None] ** 2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("steps", [2, 6])
def test_sampling_with_the_truth_as_any_target_reaches_it(target: str, steps: int) -> None:
    """From pure noise on, where noise itself says nothing of x0: the steps after it make up for that."""
    truth = torch.randn(2, 3, 1, 4, 4, generator=torch.Generator().manual_seed(7))

    def predict(state: dict[str, Tensor], sigma: Tensor, branch: str) -> dict[str, Tensor]:
        level, x = sigma[:, None, None, None, None], state["video"]
        told = target_of(target, truth, (x - (1 - level) * truth) / level, 1 - level, level)
        return {"video": clean(target, x, told, 1 - level, level)}

    out = Sampler({"video": "b f c h w"})(draw_noise((0, 1), {"video": (3, 1, 4, 4)}), predict, steps, 1.0)
    assert torch.allclose(out["video"], truth, atol=1e-4)


def test_noise_alone_gives_a_finite_x0() -> None:
    x, error = torch.randn(4, 3), 0.1
    told = clean("epsilon", x, x - error, torch.zeros(1), torch.ones(1))
    assert torch.allclose(told, torch.full((4, 3), error / FLOOR), atol=1e-3)


def test_an_unknown_target_is_told_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="no diffusion target 'eps'; nearest: epsilon"):
        weight("eps", torch.ones(1), torch.ones(1))
