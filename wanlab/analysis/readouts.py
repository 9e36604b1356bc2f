"""Readouts: differentiable numbers of a video whose truth is known, one for each row; what causal questions measure by default.

They are told what to look for (the colour of an object), and need no network. Metrics of `wanlab.measure` can be asked as well, of
the same `Seen`; they are not differentiable. They are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from wanlab.analysis.cells import Metric, MetricError, Seen
from wanlab.core.nearest import suggestion
from wanlab.data.shapes import COLOURS

HEADINGS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
CHROMA = 0.1            # of an object's pixel, at least: background is nearly grey
SHARP = 12.0            # how fast a hue that differs loses its say: cos^12, half at 19 degrees


def weights(video: Tensor, colour: str | Sequence[str]) -> Tensor:
    """How much each pixel shows a colour of the world, b f h w in [0, 1]: its chroma, where the hue agrees. Differentiable.

    video b f 3 h w in [0, 1]; colour: one for all rows, or one for each.
    MetricError for a colour that the world does not have, or another number of them.
    """
    names = [colour] * len(video) if isinstance(colour, str) else list(colour)
    for name in names:
        if name not in COLOURS:
            raise MetricError(f"the world has no colour {name!r}{suggestion(name, list(COLOURS))}")
    if len(names) != len(video):
        raise MetricError(f"{len(names)} colours for {len(video)} videos")
    hue = _chroma(torch.tensor([COLOURS[name] for name in names], dtype=video.dtype, device=video.device)[:, :, None, None])
    seen = _chroma(rearrange(video, "b f c h w -> b c f h w").flatten(3))
    size, length = (one.square().sum(1).clamp(min=1e-8).sqrt() for one in (seen, hue))
    cosine = ((seen * hue).sum(1) / (size * length)).clamp(0, 1)
    strength = (size - CHROMA).clamp(min=0) / (length - CHROMA)
    return rearrange(strength * cosine**SHARP, "b f (h w) -> b f h w", h=video.shape[-2])


def _chroma(rgb: Tensor) -> Tensor:
    return rgb - rgb.mean(1, keepdim=True)


def centres(video: Tensor, colour: str | Sequence[str]) -> Tensor:
    """The centre of a colour in every frame, b f 2: x right, y down, fractions of the width and height.

    Where none of the colour is left, the centre is pulled to the middle of the frame."""
    shown = weights(video, colour)
    h, w = shown.shape[-2:]
    x = (torch.arange(w, device=shown.device) + 0.5) / w
    y = (torch.arange(h, device=shown.device) + 0.5) / h
    faint = 1e-4 * h * w                # of the middle of the frame: a centre for every video
    mass = shown.sum((-2, -1)) + faint
    return torch.stack([((shown.sum(-2) * x).sum(-1) + 0.5 * faint) / mass, ((shown.sum(-1) * y).sum(-1) + 0.5 * faint) / mass], -1)


def displacement(colour: str | Sequence[str], heading: str | tuple[float, float]) -> Metric:
    """How far the centre of a colour moves from the first frame to the last along a heading, widths: "left", or a unit vector.

    MetricError for another heading.
    """
    if isinstance(heading, str) and heading not in HEADINGS:
        raise MetricError(f"no heading {heading!r}{suggestion(heading, list(HEADINGS))}; give a vector (x right, y down)")
    along = torch.tensor(HEADINGS[heading] if isinstance(heading, str) else heading)

    def moved(seen: Seen) -> Tensor:
        at = centres(seen.video, colour)
        return (at[:, -1] - at[:, 0]) @ along.to(at)

    return moved


def shown(colour: str | Sequence[str]) -> Metric:
    """How much of a colour the frames show, as a share of their area."""
    return lambda seen: weights(seen.video, colour).mean((1, 2, 3))


def growth(colour: str | Sequence[str]) -> Metric:
    """How much more of a colour the last frame shows than the first, as a share of the frame's area."""
    def grown(seen: Seen) -> Tensor:
        area = weights(seen.video, colour).mean((2, 3))
        return area[:, -1] - area[:, 0]

    return grown


def likeness(video: Tensor) -> Metric:
    """Minus the mean squared difference to a video b f c h w, in [-1, 0]."""
    return lambda seen: -(seen.video - video.to(seen.video)).square().mean((1, 2, 3, 4))


def sharpness() -> Metric:
    """Energy of the highest frequencies: the mean square of a 3x3 Laplacian over all frames."""
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]

    def energy(seen: Seen) -> Tensor:
        planes = rearrange(seen.video, "b f c h w -> (b f c) 1 h w")
        return F.conv2d(planes, kernel.to(planes)).square().reshape(len(seen.video), -1).mean(1)

    return energy


def realness(pipe: Any, network: Callable[[Tensor], Sequence[Tensor]] | None = None) -> Metric:
    """The discriminator's logit of a whole video, the mean over its patches: positive where it takes it for real.

    pipe: one with a stage `discriminator` (the cascade); network: the content network under it, by default the shipped one.
    MetricError for a pipeline without one.
    """
    if not hasattr(pipe, "discriminator"):
        raise MetricError(f"{pipe.config['name']} has no discriminator, so no logit of one")
    from wanlab.nn.vgg import content_network

    network = network or content_network()

    def logit(seen: Seen) -> Tensor:
        video = seen.video.to(pipe.device)
        taps = network.to(pipe.device)(rearrange(video, "b f c h w -> (b f) c h w"))  # type: ignore[attr-defined]
        return pipe.discriminator(2 * video - 1, taps).mean((1, 2, 3, 4))

    return logit


def of_truth(factors: Sequence[Mapping[str, Any]]) -> dict[str, Metric]:
    """The defaults for clips of the procedural world, from their factors: of the first object of each row its displacement to the
    right and downwards, growth, and how much of its colour is shown; and sharpness."""
    colours = [clip["objects"][0]["colour"] for clip in factors]
    return {"right": displacement(colours, "right"), "down": displacement(colours, "down"), "growth": growth(colours),
            "colour": shown(colours), "sharpness": sharpness()}
