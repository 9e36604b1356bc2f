"""Protocols: everything between a video and the features of a set distance, fixed under one name.

Published FVDs of one model differ by a factor of two with the resize kernel, the quantisation, the stride or the divisor of
the covariance. A preset fixes all of them as one program of the field has them, and its name stands in the result:
`fvd[videogpt|16f|s1|i3d:sha8]`. What was read where is said in docs/metrics.md.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from einops import rearrange
from torch import Tensor

from .resizing import Kernel, Resize
from .sampling import Offset, Sampling
from .video import check_video

Quantise = Literal["truncate", "round", "none"]
Side = Literal["real", "fake"]

KINETICS = (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)  # torchvision's video networks
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SIGNED = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)  # [0, 1] -> [-1, 1]
UNIT = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
BYTES = (0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255)  # [0, 1] -> [0, 255]


@dataclass(frozen=True)
class Protocol:
    """A way from videos to features, and the divisor of what is computed from them.

    name        of the preset
    network     a key of `metrics.networks.NETWORKS`
    layer       of the network
    frames      of a clip; minimum: the fewest that the network can take
    stride      from one frame of a clip to the next
    loader      a resize before the quantisation (content-debiased FVD's loader), or None
    quantise    to 8 bits: "truncate", "round" or "none"
    resize      to the network's size, or None where the network does it
    statistics  mean and deviation per channel that frames in [0, 1] are normalised with
    ddof        divisor n - ddof of the covariances
    real, fake  where clips begin in the reference videos and in those that are judged
    epsilon     of I3D's batch normalisations (see `metrics.i3d`)
    source      the program that does so
    """

    name: str
    network: str
    layer: str
    frames: int
    resize: Resize | None
    statistics: tuple[tuple[float, float, float], tuple[float, float, float]]
    source: str
    minimum: int = 1
    stride: int = 1
    loader: Resize | None = None
    quantise: Quantise = "none"
    ddof: int = 1
    real: Offset = "first"
    fake: Offset = "first"
    epsilon: float = 1e-5
    exact: bool = False

    def with_clips(self, frames: int | None = None, stride: int | None = None, offset: Offset | None = None) -> Protocol:
        """The same with other clips; the name of a result shows them.

        Raises:
            ValueError: fewer frames than the network can take, or other than the one number that it can.
        """
        frames = self.frames if frames is None else frames
        if frames < self.minimum:
            raise ValueError(f"{self.name} needs clips of at least {self.minimum} frames, got {frames}")
        if self.exact and frames != self.frames:
            raise ValueError(f"{self.name} is defined on clips of {self.frames} frames, got {frames}")
        changed = replace(self, frames=frames, stride=self.stride if stride is None else stride)
        return changed if offset is None else replace(changed, real=offset, fake=offset)

    def sampling(self, side: Side = "fake", seed: int = 0) -> Sampling:
        """Where the clips of one side are cut."""
        return Sampling(self.frames, self.stride, self.real if side == "real" else self.fake, seed)

    def label(self, signature: str, seed: int = 0) -> str:
        """What stands in brackets: preset, frames, stride, other offsets than the preset's, the seed of seeded clips (where not 0),
        network and hash."""
        preset = PRESETS.get(self.name, self)
        parts = [self.name, f"{self.frames}f"]
        if self.name != "motionnet" or self.stride > 1:  # its own studies have always been over whole clips
            parts.append(f"s{self.stride}")
        if (self.real, self.fake) != (preset.real, preset.fake):
            parts.append(self.fake)
        if seed and "seeded" in (self.real, self.fake):
            parts.append(f"seed{seed}")
        return "|".join([*parts, signature])

    def prepare(self, clips: Tensor) -> Tensor:
        """What the network is given: `b f c h w` in [0, 1] -> `b c f h' w'` float32.

        Raises:
            ValueError: fewer frames than the network can take, NaN, values outside [0, 1].
        """
        clips = check_video(clips, "clips", self.minimum)
        return torch.stack([self._prepare(clip) for clip in clips])  # one at a time: a resize of many long ones is large

    def _prepare(self, frames: Tensor) -> Tensor:
        if self.loader is not None:
            frames = self.loader(frames)
        frames = quantised(frames, self.quantise)
        if self.resize is not None:
            frames = self.resize(frames)
        mean, deviation = (torch.tensor(values).to(frames)[:, None, None] for values in self.statistics)
        return rearrange((frames - mean) / deviation, "f c h w -> c f h w")


def quantised(frames: Tensor, how: Quantise) -> Tensor:
    """Frames in [0, 1] as 8-bit frames would be: multiples of 1 / 255."""
    if how == "none":
        return frames
    return (frames * 255 + (0.5 if how == "round" else 0.0)).floor().clamp(0, 255) / 255


def _crop(kernel: Kernel, side: int) -> Resize:
    return Resize(kernel, "crop", (side, side))


def _squash(kernel: Kernel, height: int, width: int) -> Resize:
    return Resize(kernel, "squash", (height, width))


def _i3d(name: str, source: str, resize: Resize, **more: Any) -> Protocol:
    return Protocol(name, "i3d", "logits", 16, resize, SIGNED, source, minimum=9, **more)


PRESETS: dict[str, Protocol] = {preset.name: preset for preset in (
    Protocol("motionnet", "motionnet", "levels+bands", 8, None, UNIT, "this project", minimum=8, exact=True),
    _i3d("styleganv", "universome/stylegan-v, src/metrics", _squash("bilinear", 224, 224),
         quantise="round", ddof=0, real="seeded", epsilon=1e-3),
    _i3d("videogpt", "wilson1yan/VideoGPT, videogpt/fvd", _crop("bilinear", 224), quantise="truncate"),
    _i3d("tf1", "google-research/frechet_video_distance", _squash("tf1", 224, 224), epsilon=1e-3),
    _i3d("cm-styleganv", "JunyaoHu/common_metrics_on_video_quality", _crop("bilinear", 224), epsilon=1e-3),
    _i3d("cdfvd-i3d", "songweige/content-debiased-fvd", _squash("bilinear", 224, 224),
         loader=_crop("antialias", 128), quantise="truncate", ddof=0, real="seeded", fake="seeded"),
    Protocol("cdfvd-videomae", "videomae_g", "fc_norm", 16, _squash("bilinear", 224, 224), UNIT,
             "songweige/content-debiased-fvd", minimum=16, exact=True, loader=_crop("antialias", 128), quantise="truncate",
             ddof=0, real="seeded", fake="seeded"),
    Protocol("jedi", "vjepa", "pooled", 16, _crop("antialias", 224), IMAGENET, "oooolga/JEDi", minimum=16, exact=True),
    Protocol("videomae", "videomae", "mean", 16, _crop("antialias", 224), IMAGENET, "transformers", minimum=16, exact=True),
    Protocol("vjepa2", "vjepa2", "mean", 16, _crop("antialias", 256), IMAGENET, "transformers", minimum=2),
    Protocol("r3d_18", "r3d_18", "pool", 16, Resize("bilinear", "squash", (128, 171), (112, 112)), KINETICS,
             "torchvision, R3D_18_Weights.transforms", minimum=2),
    Protocol("mc3_18", "mc3_18", "pool", 16, Resize("bilinear", "squash", (128, 171), (112, 112)), KINETICS,
             "torchvision, MC3_18_Weights.transforms", minimum=2),
    Protocol("s3d", "s3d", "pool", 16, Resize("bilinear", "squash", (256, 256), (224, 224)), KINETICS,
             "torchvision, S3D_Weights.transforms", minimum=13),
)}  # fmt: skip


def preset(name: str) -> Protocol:
    """A preset by name.

    Raises:
        ValueError: no such preset; the message gives the nearest.
    """
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=3) or list(PRESETS)
        raise ValueError(f"no preset {name!r}; nearest: {', '.join(near)}")
    return PRESETS[name]
