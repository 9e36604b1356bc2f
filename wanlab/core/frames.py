"""Edits of time: FreezeFrame, ShuffleFrames, ReverseFrames, LowPassFrames, CutFrames. All need the axis f.

What they make is made of all frames of the site; `frames=` says in which of them it stands. ReverseFrames(site, frames="0:4") of
eight frames puts frames 7 6 5 4 into 0 1 2 3, and leaves 4 to 7 as they are: it does not turn the first four around.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wanlab.core.edit import Edit, EditError, Event
from wanlab.core.seeding import generator
from wanlab.core.site import Site


@dataclass(frozen=True)
class FreezeFrame(Edit):
    """Every frame, or those of `frames=`, gets the value of one frame: of any, whether it is among them or not."""

    kind = "freeze_frame"
    reads_seeds = False
    needs = ("f",)
    frame: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole(self.frame, "freeze_frame: frame")

    def check(self, site: Site) -> None:
        super().check(site)
        self._fits(site, site.size("f"))

    def _fits(self, site: Site, frames: int | None) -> None:
        if frames is not None and not -frames <= self.frame < frames:
            raise EditError(f"freeze_frame: frame={self.frame}, but {site.name} has {frames} frames (0 to {frames - 1})")

    def change(self, x: Tensor, event: Event) -> Tensor:
        at = event.axis("f", self)
        self._fits(event.site, x.shape[at])
        return x.narrow(at, self.frame % x.shape[at], 1).expand_as(x)


@dataclass(frozen=True)
class ShuffleFrames(Edit):
    """The frames in another order, drawn by `seed`: the same at all sites and steps, and never the order they had.

    The order is of all frames of the site; `frames=` says which of them get what it puts there, from wherever that is.
    """

    kind = "shuffle_frames"
    reads_seeds = False
    needs = ("f",)
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole(self.seed, "shuffle_frames: seed")

    def check(self, site: Site) -> None:
        super().check(site)
        if (frames := site.size("f")) is not None:
            frame_order(frames, self.seed)

    def change(self, x: Tensor, event: Event) -> Tensor:
        at = event.axis("f", self)
        order = frame_order(x.shape[at], self.seed)
        return x.index_select(at, torch.tensor(order, device=x.device))


def frame_order(frames: int, seed: int) -> list[int]:
    """A seeded permutation of `frames` that is not the identity. EditError for fewer than two."""
    if frames < 2:
        raise EditError("shuffle_frames needs at least two frames")
    source = generator("shuffle_frames", seed, frames)
    order = torch.randperm(frames, generator=source).tolist()
    return order if order != sorted(order) else order[1:] + order[:1]


@dataclass(frozen=True)
class ReverseFrames(Edit):
    """The frames from last to first. `frames="0:4"` of eight gets frames 7 6 5 4: all are turned around, four are replaced."""

    kind = "reverse_frames"
    reads_seeds = False
    needs = ("f",)

    def change(self, x: Tensor, event: Event) -> Tensor:
        return x.flip(event.axis("f", self))


@dataclass(frozen=True)
class LowPassFrames(Edit):
    """A moving average over `window` frames (odd); at the ends of the video over those that there are.

    `frames=` says which frames get it; their neighbours outside are averaged too.
    """

    kind = "low_pass_frames"
    reads_seeds = False
    needs = ("f",)
    window: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole(self.window, "low_pass_frames: window")
        if self.window < 1 or self.window % 2 == 0:
            raise EditError(f"low_pass_frames: window={self.window!r} is not an odd number of frames")

    def change(self, x: Tensor, event: Event) -> Tensor:
        at = event.axis("f", self)
        frame = torch.arange(x.shape[at], device=x.device)
        near = ((frame[:, None] - frame[None]).abs() <= self.window // 2).to(x.dtype)
        return (x.movedim(at, -1) @ (near / near.sum(1, keepdim=True)).T).movedim(-1, at)


@dataclass(frozen=True)
class CutFrames(Edit):
    """Attention between frames is cut into blocks of `block` frames: weights across blocks are 0, rows sum to 1 again.

    Acts on the `pattern` of temporal attention, whose last two axes are query frames f and key frames j. Blocks are counted from
    frame 0 of the site; `frames=` says whose queries are cut.
    EditError at any other site.
    """

    kind = "cut_frames"
    reads_seeds = False
    needs = ("f", "j")
    block: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _whole(self.block, "cut_frames: block")
        if self.block < 1:
            raise EditError(f"cut_frames: block={self.block} is not a number of frames")

    def check(self, site: Site) -> None:
        super().check(site)
        if site.axes[-2:] != ("f", "j"):
            raise EditError(f"cut_frames acts on attention over frames, whose pattern ends in axes 'f j'; {site.name} "
                            f"has '{' '.join(site.axes)}'")

    def change(self, x: Tensor, event: Event) -> Tensor:
        self.check(event.site)
        if x.shape[-1] != x.shape[-2]:
            raise EditError(f"cut_frames: {event.site.name} has {x.shape[-2]} query and {x.shape[-1]} key frames")
        block = torch.arange(x.shape[-1], device=x.device) // self.block
        kept = x * (block[:, None] == block[None]).to(x.dtype)
        total = kept.sum(-1, keepdim=True)
        alone = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)      # a frame whose block had no weight at all
        return torch.where(total > 0, kept / total.clamp_min(torch.finfo(x.dtype).tiny), alone)


def _whole(value: object, what: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise EditError(f"{what}={value!r} is not a whole number")
