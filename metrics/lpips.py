"""Perceptual distance through the `lpips` package (Zhang et al. 2018), its trunk given, never downloaded.

The published trunks (AlexNet, VGG16, SqueezeNet 1.1) are torchvision's, from the user's cache or a given file, and carry
the package's linear weights. Offline there is a shipped trunk of SqueezeNet layout, trained on procedural frames: linear
weights calibrated for ImageNet would mean nothing on it, so every channel counts the same. A number's name says which:
`lpips[alexnet:7be5be79]`, `lpips[custom-alexnet:sha8]`, `lpips[home-squeeze|uniform|net:sha8]`, `lpips[random-trunk|alex]`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor

from . import weights
from .video import check_pair, check_video

TRUNK = "frametrunk"
LEAST = 32  # pixels
# Which published file a net stands on, and the pixels of the frames whose activations are alive at once: of 128 x 128
# pixels two frames at a time for VGG and eight for the small nets (more is slower for VGG, no faster for them, on a CPU).
PUBLISHED = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
PIXELS = {"alex": 2**17, "vgg": 2**15, "squeeze": 2**17}
# sha256 of the package's linear weights, version 0.1
LINEAR = {"alex": "df73285e35b22355", "vgg": "a78928a0af1e5f0f", "squeeze": "4a5350f23600cb79"}

Features = list[Tensor]


@dataclass(frozen=True)
class Perceptual:
    """An `lpips.LPIPS` that may judge, and what stands in the brackets of its numbers."""

    name: str
    model: Any = field(repr=False)

    @property
    def chunk_pixels(self) -> int:
        """How many pixels of frames go through the trunk at once."""
        return PIXELS[self.model.pnet_type]


def blank(net: str = "squeeze", linear: bool = False) -> Any:
    """An `lpips.LPIPS` on a random trunk: to be loaded or trained, not to judge.

    Args:
        net: alex, vgg or squeeze.
        linear: with the package's linear weights (their hash is checked); otherwise every channel counts the same.

    Raises:
        ValueError: another net.
        WeightsError: the installed package holds other linear weights.
    """
    import lpips

    if net not in PUBLISHED:
        raise ValueError(f"lpips has no net {net!r}; there are {', '.join(PUBLISHED)}")
    with warnings.catch_warnings():  # lpips 0.1.4 calls torchvision by an old keyword
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        model = lpips.LPIPS(net=net, pnet_rand=True, lpips=linear, pretrained=False, verbose=False)
    if linear:
        _fill_linear(model, Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth")
    return model


def _fill_linear(model: Any, path: Path) -> None:
    """The package loads these with `strict=False`; here a missing or foreign one is an error."""
    if not weights.sha256(path).startswith(LINEAR[model.pnet_type]):
        raise weights.WeightsError(f"{path} is not the linear layer of lpips 0.1 (sha256 {weights.sha256(path)[:16]})")
    state = weights.tensors(path)
    model.lins.load_state_dict({key.removeprefix("lin"): value for key, value in state.items()}, strict=True)


def build(trunk: dict[str, Tensor], net: str = "squeeze", linear: bool = False) -> Any:
    """An `lpips.LPIPS` on the given trunk, frozen.

    Args:
        trunk: the tensors of `LPIPS.net`, all by name.
        net, linear: as in `blank`.

    Raises:
        RuntimeError: a tensor is missing, unexpected or of another shape (a partial load would leave the rest random).
    """
    model = blank(net, linear)
    model.net.load_state_dict(trunk, strict=True)
    return model.eval().requires_grad_(False)


@cache
def shipped(device: str = "cpu") -> Perceptual:
    """The shipped trunk, on a device."""
    return Perceptual(f"home-squeeze|uniform|net:{weights.short_hash(TRUNK)}", build(weights.read(TRUNK)).to(device))


def published(net: str = "alex", given: str | Path | None = None, device: str | torch.device = "cpu") -> Perceptual:
    """LPIPS as published, on torchvision's trunk.

    Args:
        net: alex (the usual one), vgg or squeeze.
        given: torchvision's file; None = the user's caches. A file of another hash is named `custom-...`.
        device: where it goes.

    Raises:
        ValueError: another net.
        WeightsError: no file, a damaged one, or one that does not hold that trunk; the message says how to give it.
    """
    if net not in PUBLISHED:
        raise ValueError(f"lpips has no net {net!r}; there are {', '.join(PUBLISHED)}")
    path = weights.locate(PUBLISHED[net], given)
    model = blank(net, linear=True)
    weights.fill(model.net, _as_slices(weights.tensors(path), model.net), path)
    return Perceptual(weights.signature(PUBLISHED[net], path), model.eval().requires_grad_(False).to(device))


def random_trunk(net: str = "alex", seed: int = 0) -> Perceptual:
    """LPIPS on a trunk that was never trained: for tests and for asking what training adds. Its name says so."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = blank(net, linear=True)
    return Perceptual(f"random-trunk|{net}|seed{seed}", model.eval().requires_grad_(False))


def _as_slices(state: dict[str, Tensor], net: Any) -> dict[str, Tensor]:
    """torchvision's `features.3.weight` under the package's `slice2.3.weight`; its classifier is left out."""
    places = {key.split(".", 1)[1]: key for key in net.state_dict()}
    features = {key.removeprefix("features."): value for key, value in state.items() if key.startswith("features.")}
    return {places.get(key, f"features.{key}"): value for key, value in features.items()}


def layers(frames: Tensor, judge: Perceptual) -> Features:
    """Features of frames `n c h w` in [0, 1], of unit length over channels, one `n c h w` tensor per layer."""
    import lpips

    with torch.no_grad():
        return [lpips.normalize_tensor(m) for m in judge.model.net(judge.model.scaling_layer(2 * frames - 1))]


def layer_distance(a: Features, b: Features, judge: Perceptual) -> Tensor:
    """`n`: per layer the squared difference, weighted over channels, mean over space; summed over layers."""
    total = torch.zeros((), device=a[0].device)
    with torch.no_grad():
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            square = (x - y).square()
            weighted = judge.model.lins[k](square) if judge.model.lpips else square.sum(1, keepdim=True)
            total = total + weighted.mean((2, 3))[:, 0]
    return total


def check_size(video: Tensor) -> None:
    """ValueError for frames `... h w` below 32 x 32, which the trunks' strides would leave nothing of."""
    if min(video.shape[-2:]) < LEAST:
        raise ValueError(f"lpips needs frames of at least {LEAST} x {LEAST}, got {tuple(video.shape[-2:])}")


def frame_features(video: Tensor, judge: Perceptual | None = None) -> Features:
    """Features of every frame at once, one `b f c h w` tensor per layer: for short clips that are asked many times.

    Long clips go through `perceptual`, which holds a few frames at a time.

    Args:
        video: `b f c h w` in [0, 1], frames of at least 32 x 32.
        judge: None = the shipped one on the video's device.
    """
    video = check_video(video)
    check_size(video)
    judge = shipped(str(video.device)) if judge is None else judge
    maps = layers(rearrange(video, "b f c h w -> (b f) c h w"), judge)
    return [rearrange(m, "(b f) c h w -> b f c h w", b=len(video)) for m in maps]


def feature_distance(a: Features, b: Features, judge: Perceptual | None = None) -> Tensor:
    """`b f`: distance of every frame of `frame_features` to the same frame of others; judge as there."""
    judge = shipped(str(a[0].device)) if judge is None else judge
    x, y = ([rearrange(layer, "b f c h w -> (b f) c h w") for layer in part] for part in (a, b))
    return rearrange(layer_distance(x, y, judge), "(b f) -> b f", b=len(a[0]))


def lpips_distance(video: Tensor, reference: Tensor, judge: Perceptual | None = None) -> Tensor:
    """LPIPS of every frame against the same frame of the reference, mean over frames: `b`, 0 = identical.

    Args:
        video: `b f c h w` in [0, 1].
        reference: the same shape.
        judge: None = the shipped one.
    """
    from .perceptual import perceptual_curves

    video, reference = check_pair(video, reference)
    curve = perceptual_curves(video, reference, steps=False, judge=judge).reference
    return cast("Tensor", curve).mean(1)
