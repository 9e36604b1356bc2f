"""DISTS (Ding et al. 2020): structure and texture similarity of VGG16 features, its trunk given, never downloaded.

torchmetrics has DISTS, but builds it only with a download; the formula (eqs. 6-9) is short and stands here, with the
published weights alpha and beta as torchmetrics ships them. The trunk is named: `dists[vgg16:397923af]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from . import weights
from .video import check_pair

STAGES = ((0, 4), (5, 9), (10, 16), (17, 23), (24, 30))  # of torchvision's VGG16 features; a pooling stands between
CHANNELS = (3, 64, 128, 256, 512, 512)
SMALL = 1e-6  # c1 and c2
LEAST = 32  # pixels
ALPHA_BETA = "f5e65c96230b7f6c"  # sha256 of torchmetrics' copy
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Dists:
    """A DISTS that may judge: what stands in the brackets of its numbers, the trunk, the weights alpha and beta `c`."""

    name: str
    trunk: nn.Sequential = field(repr=False)
    alpha: Tensor = field(repr=False)
    beta: Tensor = field(repr=False)


def published(given: str | Path | None = None, device: str | torch.device = "cpu") -> Dists:
    """DISTS on torchvision's VGG16.

    Args:
        given: torchvision's `vgg16-397923af.pth`; None = the user's caches. A file of another hash is named `custom-...`.
        device: where it goes.

    Raises:
        WeightsError: no file, a damaged one or not that layout; the message says how to give it.
    """
    path = weights.locate("vgg16", given)
    state = {key.removeprefix("features."): value for key, value in weights.tensors(path).items() if key.startswith("features.")}
    trunk = weights.fill(_blank(), state, path).to(device)
    return Dists(weights.signature("vgg16", path), trunk, *(part.to(device) for part in _alpha_beta()))


def random_trunk(seed: int = 0) -> Dists:
    """DISTS on a trunk that was never trained, for tests; its name says so."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = _blank()
    return Dists(f"random-trunk|vgg16|seed{seed}", trunk.eval().requires_grad_(False), *_alpha_beta())


def _blank() -> nn.Sequential:
    from torchvision.models import vgg

    return vgg.make_layers(vgg.cfgs["D"])  # without the classifier, which is nine tenths of VGG16


def _alpha_beta() -> tuple[Tensor, Tensor]:
    """The published weights per channel, as shares of their sum."""
    package = find_spec("torchmetrics")
    path = Path(str(package and package.origin)).parent / "functional" / "image" / "dists_models" / "weights.pt"
    if not path.is_file() or not weights.sha256(path).startswith(ALPHA_BETA):
        raise weights.WeightsError(f"{path} is missing or not the published alpha and beta of DISTS (torchmetrics 1.8 or later)")
    state = weights.tensors(path)
    total = state["alpha"].sum() + state["beta"].sum()
    return state["alpha"].flatten() / total, state["beta"].flatten() / total


def stages(frames: Tensor, judge: Dists) -> list[Tensor]:
    """The frames `n c h w` in [0, 1] themselves and the activations of the five stages."""
    mean, std = (torch.tensor(v).view(1, 3, 1, 1).to(frames) for v in (MEAN, STD))
    x, out = (frames - mean) / std, [frames]
    for start, stop in STAGES:
        x = l2_pool(x) if start else x
        for k in range(start, stop):
            x = judge.trunk[k](x)
        out.append(x)
    return out


def l2_pool(x: Tensor) -> Tensor:
    """Root of the Hann-weighted mean square over 3 x 3, stride 2: `n c h w`, half the sides."""
    window = torch.tensor([0.5, 1.0, 0.5])
    kernel = torch.outer(window, window)
    kernel = (kernel / kernel.sum()).to(x).expand(x.shape[1], 1, 3, 3)
    return (functional.conv2d(x.square(), kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


@torch.no_grad()
def dists_curve(video: Tensor, reference: Tensor, judge: Dists) -> Tensor:
    """DISTS of every frame to the same frame of the reference, `b f`, one frame at a time; arguments as `dists`'.

    Raises:
        ValueError: frames below 32 x 32.
    """
    video, reference = check_pair(video, reference)
    if min(video.shape[-2:]) < LEAST:
        raise ValueError(f"dists needs frames of at least {LEAST} x {LEAST}, got {tuple(video.shape[-2:])}")
    place = judge.alpha.device
    frames = (rearrange(v, "b f c h w -> (b f) c h w").to(place).split(1) for v in (video, reference))
    values = torch.cat([_distance(x, y, judge) for x, y in zip(*frames, strict=True)])
    return rearrange(values, "(b f) -> b f", b=len(video))


def _distance(a: Tensor, b: Tensor, judge: Dists) -> Tensor:
    texture, structure = [], []
    for x, y in zip(stages(a, judge), stages(b, judge), strict=True):
        mean_x, mean_y = (v.mean((2, 3)) for v in (x, y))
        spread = ((v - m[..., None, None]).square().mean((2, 3)) for v, m in ((x, mean_x), (y, mean_y)))
        across = (x * y).mean((2, 3)) - mean_x * mean_y
        texture.append((2 * mean_x * mean_y + SMALL) / (mean_x.square() + mean_y.square() + SMALL))
        structure.append((2 * across + SMALL) / (sum(spread) + SMALL))
    return 1 - torch.cat(texture, 1) @ judge.alpha - torch.cat(structure, 1) @ judge.beta


def dists(video: Tensor, reference: Tensor, judge: Dists) -> Tensor:
    """DISTS to the reference, mean over frames: `b` in about [0, 1], 0 for a copy.

    Args:
        video: `b f c h w` in [0, 1], frames of at least 32 x 32.
        reference: the same shape.
        judge: from `published` or `random_trunk`.
    """
    return dists_curve(video, reference, judge).mean(1)
