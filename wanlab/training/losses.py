"""Losses of the super-resolution cascade and of the adversarial training. Videos are b f 3 h w in [-1, 1].

L_total   = L_content + lambda * L_GAN
L_content = || VGG(G(z)) - VGG(x) ||_2
L_GAN     = -E[log D(G(z))]
The two terms are the article's. Each `gan_*` names its paper, `judge_*` is the other side of the same one; the pixel loss, and that
L_content is relative, are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wanlab.core.nearest import suggestion

GRADIENT = 0.15  # weight of the gradients in the pixel loss


def pixel(fake: Tensor, real: Tensor) -> Tensor:
    """L1 of the pixels + GRADIENT times L1 of their horizontal and vertical differences."""
    error = fake - real
    across, down = (error[..., 1:] - error[..., :-1]).abs(), (error[..., 1:, :] - error[..., :-1, :]).abs()
    return error.abs().mean() + GRADIENT * (across.mean() + down.mean())


def taps(network: nn.Module, video: Tensor) -> list[Tensor]:
    """Activations of the content network, each (b f) c h w; videos are brought to [0, 1], where it was trained."""
    return network(rearrange(video, "b f c h w -> (b f) c h w").add(1).mul(0.5))


def content(fake: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """|| VGG(G(z)) - VGG(x) ||_2 from the taps of both: relative to the norm of the real tap, mean over taps."""
    if len(fake) != len(real) or not fake:
        raise ValueError(f"L_content compares taps one by one, got {len(fake)} and {len(real)}")
    terms = [
        (f - r).square().mean().add(1e-12).sqrt() / r.square().mean().add(1e-6).sqrt().detach()
        for f, r in zip(fake, real)
    ]
    return torch.stack(terms).mean()


def gan_log(fake: Tensor, real: Tensor) -> Tensor:
    """-E[log D(G(z))] with D = sigmoid(logit) (Goodfellow et al. 2014, non-saturating): the article's."""
    return F.softplus(-fake).mean()


def gan_hinge(fake: Tensor, real: Tensor) -> Tensor:
    """-E[logit] (Lim and Ye 2017)."""
    return -fake.mean()


def gan_relativistic(fake: Tensor, real: Tensor) -> Tensor:
    """-E[log sigmoid(fake - real)], patch against patch (Jolicoeur-Martineau 2019, RSGAN)."""
    return F.softplus(real - fake).mean()


def gan_average(fake: Tensor, real: Tensor) -> Tensor:
    """-E[log sigmoid(fake - E real)] - E[log(1 - sigmoid(real - E fake))] (Jolicoeur-Martineau 2019, RaSGAN)."""
    return F.softplus(real.mean() - fake).mean() + F.softplus(real - fake.mean()).mean()


def judge_log(fake: Tensor, real: Tensor) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))]."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def judge_hinge(fake: Tensor, real: Tensor) -> Tensor:
    """E[max(0, 1 - real)] + E[max(0, 1 + fake)]."""
    return F.relu(1 - real).mean() + F.relu(1 + fake).mean()


def judge_relativistic(fake: Tensor, real: Tensor) -> Tensor:
    """-E[log sigmoid(real - fake)]."""
    return F.softplus(fake - real).mean()


def judge_average(fake: Tensor, real: Tensor) -> Tensor:
    """-E[log sigmoid(real - E fake)] - E[log(1 - sigmoid(fake - E real))]."""
    return gan_average(real, fake)


Loss = Callable[[Tensor, Tensor], Tensor]
GAN: dict[str, tuple[Loss, Loss]] = {  # of the generator, of the discriminator; each takes (fake, real) logits
    "log": (gan_log, judge_log),
    "hinge": (gan_hinge, judge_hinge),
    "relativistic": (gan_relativistic, judge_relativistic),
    "relativistic_average": (gan_average, judge_average),
}


def gan(name: str) -> tuple[Loss, Loss]:
    """The pair of GAN losses of this name; raises ValueError with the nearest names."""
    if name not in GAN:
        raise ValueError(f"unknown GAN loss {name!r}{suggestion(name, GAN)}")
    return GAN[name]


def right(name: str, fake: Tensor, real: Tensor) -> tuple[float, float]:
    """Shares of the made and of the real patches that the discriminator takes for what they are.

    A relativistic one says nothing of a patch by itself: its logit is compared with the mean of the other side's.
    """
    if name.startswith("relativistic"):
        fake, real = fake - real.mean(), real - fake.mean()
    return (fake < 0).float().mean().item(), (real > 0).float().mean().item()


def r1(logits: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """Gradient penalty on real data (Mescheder et al. 2018, equation 9): mean over samples of |d logits / d inputs|^2, per
    logit: one over their number in a sample. The inputs count as independent of each other.
    """
    gradients = torch.autograd.grad(logits.mean(), list(inputs), create_graph=True)
    return torch.stack([g.square().sum() for g in gradients]).sum() * logits.numel()
