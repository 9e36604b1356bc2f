"""What a network may predict of a noisy state x = alpha x0 + sigma noise: how x0 follows from it, what its squared error weighs.

    epsilon   the noise itself                            Ho et al. 2020, equation 14
    v         alpha noise - sigma x0                      Salimans & Ho 2022, section 4
    flow      noise - x0, the velocity dx / d sigma       Lipman et al. 2022, equation 23: the straight path, alpha = 1 - sigma
    x0        the clean state

At a fixed x all four are one unknown, so a squared error of one is a squared error of x0 times a number (`weight`), where
SNR = alpha^2 / sigma^2:

    epsilon   SNR                     v   (alpha^2 + sigma^2)^2 / sigma^2, which is SNR + 1 where alpha^2 + sigma^2 = 1
    flow      1 / sigma^2             x0  1

The house's path is the straight one. Where alpha = 0 a prediction of the noise says nothing of x0 (Lin et al. 2023, "Common
Diffusion Noise Schedules and Sample Steps are Flawed"): alpha is taken as at least FLOOR there.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wanlab.core.nearest import suggestion

TARGETS = ("x0", "epsilon", "v", "flow")
FLOOR = 0.01


def demand(target: str) -> str:
    """The target, if it is one of TARGETS. Raises ValueError with the nearest."""
    if target not in TARGETS:
        raise ValueError(f"no diffusion target {target!r}{suggestion(target, TARGETS)}; there are {', '.join(TARGETS)}")
    return target


def target_of(target: str, x0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The quantity that `target` names; alpha and sigma broadcast to x0. Raises ValueError for an unknown one."""
    if demand(target) == "epsilon":
        return noise
    if target == "v":
        return alpha * noise - sigma * x0
    return noise - x0 if target == "flow" else x0


def clean(target: str, x: Tensor, predicted: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """x0 from a prediction of `target` at the noisy x. The inverse of `target_of`. Raises ValueError for an unknown target."""
    if demand(target) == "epsilon":
        return (x - sigma * predicted) / alpha.clamp(min=FLOOR)
    if target == "v":
        return (alpha * x - sigma * predicted) / (alpha**2 + sigma**2)
    return x - sigma * predicted if target == "flow" else predicted


def weight(target: str, alpha: Tensor, sigma: Tensor) -> Tensor:
    """The factor that turns a squared error of x0 into one of `target`. Raises ValueError for an unknown one."""
    if demand(target) == "epsilon":
        return (alpha / sigma) ** 2
    if target == "v":
        return ((alpha**2 + sigma**2) / sigma) ** 2
    return 1 / sigma**2 if target == "flow" else torch.ones_like(sigma)


def min_snr(alpha: Tensor, sigma: Tensor, gamma: float = 5.0) -> Tensor:
    """min(SNR, gamma), the min-SNR-gamma weight of a squared error of x0 (Hang et al. 2023, section 3.4).

    In the error of a target it is min(SNR, gamma) / `weight`: min(SNR, gamma) / SNR of epsilon, min(SNR, gamma) / (SNR + 1) of v.
    """
    return ((alpha / sigma) ** 2).clamp(max=gamma)
