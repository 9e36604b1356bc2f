"""The motion network: reads colour, shape and motion from eight frames; its features stand behind `fvd[motionnet]`.

Space and time are convolved in turn (the R(2+1)D of Tran et al. 2018), so that a shuffled, frozen or reversed clip
gives other features. What the network has no use for it forgets: fine texture first. So beside the means of two of its
levels stand the energies of three octaves of space and of change, which no training decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange, reduce
from torch import Tensor, nn

from . import weights
from .video import check_video, luma, resize

SIZE = 48  # pixels
FRAMES = 8
FEATURES = 188  # the second level's mean (48), the fourth's (128), twelve octave energies
COUNTS = 6, 5, 9  # colours, shapes and motions of the world that the shipped network was taught on
OCTAVES, BAND_SIZE, BAND_WEIGHT = 3, 64, 0.25  # the weight brings a usual spread of 0.8 near that of the means


def band_energies(video: Tensor) -> Tensor:
    """Log energy of each octave of `b f c h w`, mean over frames: of luma and two colour differences, and of luma's change.

    Returns:
        `b 12`: per octave (of BAND_SIZE pixels, finest first) luma, red - luma, blue - luma, change of luma.
    """
    frames = resize(video, BAND_SIZE)
    grey = luma(frames)
    x = torch.stack([grey, frames[:, :, 0] - grey, frames[:, :, 2] - grey], 2)  # b f 3 h w
    energies = []
    for _ in range(OCTAVES):
        flat = x.flatten(0, 1)
        low = nn.functional.avg_pool2d(flat, 2)
        band = (flat - nn.functional.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)).view_as(x)
        change = band[:, 1:, :1] - band[:, :-1, :1]
        energies += [(reduce(part.square(), "b f c h w -> b f c", "mean") + 1e-5).log().mean(1) for part in (band, change)]
        x = low.unflatten(0, x.shape[:2])
    return torch.cat(energies, 1)


class SpaceTime(nn.Module):
    """3x3 over space (stride), then 3 over time (its own stride), each with normalisation and ReLU: `b c f h w`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, space: int, time: int) -> None:
        super().__init__()
        self.space = nn.Conv2d(inputs, outputs, kernel, stride=space, padding=kernel // 2, bias=False)
        self.space_norm = nn.BatchNorm2d(outputs)
        self.time = nn.Conv1d(outputs, outputs, 3, stride=time, padding=1, bias=False)
        self.time_norm = nn.BatchNorm1d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Each side divided by its stride, rounded up."""
        b = len(x)
        x = self.space_norm(self.space(rearrange(x, "b c f h w -> (b f) c h w"))).relu()
        h, w = x.shape[-2:]
        x = self.time_norm(self.time(rearrange(x, "(b f) c h w -> (b h w) c f", b=b))).relu()
        return rearrange(x, "(b h w) c f -> b c f h w", b=b, h=h, w=w)


class MotionNet(nn.Module):
    """Videos -> logits per colour: shown or not, shape, motion.

    Args:
        colours, shapes, motions: how many of each the world has.
        widths: channels of the four levels.
    """

    def __init__(self, colours: int, shapes: int, motions: int, widths: Sequence[int] = (24, 48, 96, 128)) -> None:
        super().__init__()
        a, b, c, d = widths
        self.counts = (colours, shapes, motions)
        self.levels = nn.ModuleList(
            [SpaceTime(3, a, 5, 2, 1), SpaceTime(a, b, 3, 2, 1), SpaceTime(b, c, 3, 2, 2), SpaceTime(c, d, 3, 1, 1)]
        )
        self.hidden = nn.Linear(2 * d, 256)
        self.head = nn.Linear(256, colours * (1 + shapes + motions))

    def maps(self, video: Tensor) -> list[Tensor]:
        """Activations of the four levels, `b c f h w`, of a video already at `SIZE` and `FRAMES`."""
        x = rearrange((video - 0.5) / 0.25, "b f c h w -> b c f h w")
        out = []
        for level in self.levels:
            x = level(x)
            out.append(x)
        return out

    def forward(self, video: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`b f c h w` -> shown `b colours`, shape `b colours shapes`, motion `b colours motions`, all logits."""
        last = self.maps(video)[-1]
        pooled = torch.cat([reduce(last, "b c f h w -> b c", "mean"), reduce(last, "b c f h w -> b c", "max")], 1)
        colours, shapes, _ = self.counts
        row = rearrange(self.head(self.hidden(pooled).relu()), "b (k n) -> b k n", k=colours)
        return row[..., 0], row[..., 1 : 1 + shapes], row[..., 1 + shapes :]

    @torch.no_grad()
    def features(self, video: Tensor) -> Tensor:
        """Features `b 188` float32 of `b f c h w` in [0, 1]; exactly FRAMES frames, any size (antialiased to SIZE).

        Raises:
            ValueError: another number of frames, NaN, values outside [0, 1].
        """
        video = check_video(video, minimum_frames=FRAMES)
        if video.shape[1] != FRAMES:
            raise ValueError(f"fvd[motionnet] is defined on {FRAMES} frames, got {video.shape[1]}; cut the clips")
        maps = self.maps(resize(video, SIZE).clamp(0, 1))
        pooled = [reduce(maps[level], "b c f h w -> b c", "mean") for level in (1, 3)]
        return torch.cat([*pooled, BAND_WEIGHT * band_energies(video)], 1)


def shipped() -> MotionNet:
    """The motion network with the weights that ship, frozen."""
    network = MotionNet(*COUNTS)
    weights.load_into(network, "motionnet")
    return network
