"""Which frames of a video make the clip that a network sees.

A clip is `frames` frames, every `stride`-th, from an offset on: the beginning, or a place drawn from a seed and the
video's name, so that it depends neither on the order of a loader nor on the machine. A video that is too short is
refused by name; nothing is ever repeated to fill a clip.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Offset = Literal["first", "middle", "seeded", "uniform"]


class TooShort(ValueError):
    """A video with fewer frames than a clip spans; the message says how many it has and needs."""


@dataclass(frozen=True)
class Sampling:
    """How clips are cut out of videos.

    frames   of a clip
    stride   from one frame of the clip to the next
    offset   "first": from the first frame on; "middle": from the middle; "seeded": from a frame drawn by (seed, name);
             "uniform": the frames lie spread over the whole video, from its first to its last, and stride says nothing
    seed     of "seeded"
    """

    frames: int
    stride: int = 1
    offset: Offset = "first"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.frames < 1 or self.stride < 1:
            raise ValueError(f"a clip has at least 1 frame and a stride of at least 1, not {self.frames} and {self.stride}")

    @property
    def span(self) -> int:
        """Frames of a video from a clip's first to its last, both included."""
        return self.frames if self.offset == "uniform" else (self.frames - 1) * self.stride + 1

    @property
    def whole(self) -> bool:
        """Whether the clip's place depends on how long the video is."""
        return self.offset != "first"

    def indices(self, length: int, name: str = "") -> list[int]:
        """The frames of a clip, in order, of a video with `length` frames.

        Raises:
            TooShort: length is below `span`.
        """
        if length < self.span:
            every = f", every {self.stride}." if self.stride > 1 and self.offset != "uniform" else ""
            raise TooShort(f"too short: {length} frames, a clip of {self.frames}{every} spans {self.span}")
        if self.offset == "uniform":
            last = max(self.frames - 1, 1)
            return [(2 * index * (length - 1) + last) // (2 * last) for index in range(self.frames)]
        room = length - self.span
        start = {"first": 0, "middle": room // 2}.get(self.offset)
        if start is None:
            start = drawn(name, self.seed, room + 1)
        return list(range(start, start + self.span, self.stride))

    def cut(self, video: Tensor, name: str = "") -> Tensor:
        """The clip of one video: `f c h w` -> `frames c h w`. Raises TooShort."""
        indices = self.indices(len(video), name)
        return video if len(indices) == len(video) else video[indices]


def drawn(name: str, seed: int, room: int) -> int:
    """A number below `room` that depends on (seed, name) alone, every one equally likely."""
    text = f"{seed}/{name}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") % room
