"""Grids: how the tokens of a site stand in the video."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """Frame by frame, row by row: from token `start` on, `frames` x `height` x `width` tokens stand on a grid; all others stand
    nowhere (words, registers). `of`: "video", or "image" for the tokens of a picture that a video is made from."""

    frames: int
    height: int
    width: int
    start: int = 0
    of: str = "video"

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width) < 1 or self.start < 0:
            raise ValueError(f"a grid has at least one frame, row and column, and starts at token 0 or later, not {self}")

    @property
    def size(self) -> int:
        """Tokens on the grid."""
        return self.frames * self.height * self.width

    @property
    def sides(self) -> tuple[int, int, int]:
        """frames, height, width."""
        return self.frames, self.height, self.width

    @property
    def tokens(self) -> slice:
        """The tokens that stand on it."""
        return slice(self.start, self.start + self.size)

    def check(self, site: str, tokens: int) -> Grid:
        """This grid; ValueError where a site has fewer tokens than it needs."""
        if self.start + self.size > tokens:
            raise ValueError(f"{site} has {tokens} tokens, but their grid is said to be {'x'.join(map(str, self.sides))}"
                             + (f" from token {self.start} on" if self.start else ""))
        return self

    def centres(self) -> Tensor:
        """Of each token on it: time, y and x of its centre, from -1/2 to 1/2 of the video's length, height and width (n 3)."""
        lines = [(torch.arange(side, dtype=torch.float64) + 0.5) / side - 0.5 for side in self.sides]
        return torch.stack(torch.meshgrid(*lines, indexing="ij"), -1).reshape(-1, 3)
