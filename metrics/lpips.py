"""Perceptual distance through the `lpips` package (Zhang et al. 2018), its trunk given, never downloaded.

The shipped trunk has the SqueezeNet 1.1 layout and was trained on procedural frames. The linear weights that come with
`lpips` are calibrated for ImageNet trunks, so here every channel counts the same (`lpips=False`), and the name of the
number says both: `lpips[home-squeeze|uniform|net:sha8]`.
"""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from . import weights
from .video import check_pair, check_video

TRUNK = "frametrunk"
Features = list[Tensor]


def blank() -> Any:
    """An `lpips.LPIPS` of squeeze layout on a random trunk, uniform weights: to be loaded or trained, not to judge."""
    import lpips

    with warnings.catch_warnings():  # lpips 0.1.4 calls torchvision by an old keyword
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        return lpips.LPIPS(net="squeeze", pnet_rand=True, lpips=False, verbose=False)


def build(trunk: dict[str, Tensor]) -> Any:
    """An `lpips.LPIPS` of squeeze layout on the given trunk, uniform weights, frozen.

    Args:
        trunk: the tensors of `LPIPS.net`, all 50 by name.

    Raises:
        RuntimeError: a tensor is missing, unexpected or of another shape (a partial load would leave the rest random).
    """
    model = blank()
    model.net.load_state_dict(trunk, strict=True)
    return model.eval().requires_grad_(False)


@cache
def shipped(device: str = "cpu") -> Any:
    """The shipped trunk inside `lpips.LPIPS`, on a device."""
    return build(weights.read(TRUNK)).to(device)


def frame_features(video: Tensor, model: Any | None = None) -> Features:
    """Unit-length features of every frame, one `b f c h w` tensor per layer; computed once, shared by all distances.

    Args:
        video: `b f c h w` in [0, 1], frames of at least 32 x 32.
        model: an `lpips.LPIPS`; None = the shipped one on the video's device.
    """
    import lpips

    video = check_video(video)
    if min(video.shape[-2:]) < 32:
        raise ValueError(f"lpips needs frames of at least 32 x 32, got {tuple(video.shape[-2:])}")
    model = shipped(str(video.device)) if model is None else model
    frames = rearrange(video, "b f c h w -> (b f) c h w")
    with torch.no_grad():
        maps = model.net(model.scaling_layer(2 * frames - 1))
        return [rearrange(lpips.normalize_tensor(m), "(b f) c h w -> b f c h w", b=len(video)) for m in maps]


def feature_distance(a: Features, b: Features) -> Tensor:
    """`b f`: squared difference summed over channels, mean over space, summed over layers."""
    layers = [reduce((x - y).square(), "b f c h w -> b f h w", "sum").mean((2, 3)) for x, y in zip(a, b, strict=True)]
    return torch.stack(layers).sum(0)


def lpips_distance(video: Tensor, reference: Tensor, model: Any | None = None) -> Tensor:
    """LPIPS of every frame against the same frame of the reference, mean over frames: `b`, 0 = identical.

    Args:
        video: `b f c h w` in [0, 1].
        reference: the same shape.
        model: an `lpips.LPIPS` without linear layers; None = the shipped one.
    """
    video, reference = check_pair(video, reference)
    return feature_distance(frame_features(video, model), frame_features(reference, model)).mean(1)
