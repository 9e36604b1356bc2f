"""Rotary positions of video tokens in three directions, time, height and width: RoFormer (2021) as Wan2.1 uses it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wanlab.core import Hookable


class Rotary(Hookable):
    """Angles by which pairs of a head's channels are turned, one third of the head for each direction, time takes the rest.

    Sites: `time`, `height`, `width`: the angles of each place along a direction, in radians, one row for each sample. What
    stands there turns every block's queries and keys: frames in another order at `time` scramble the order in time.
    """

    SITES = {"time": "b f d", "height": "b h d", "width": "b w d"}

    def __init__(self, head_width: int, theta: float = 10_000.0) -> None:
        super().__init__()
        if head_width % 2:
            raise ValueError(f"rotary positions turn pairs of channels; a head of {head_width} has an odd number")
        third = 2 * (head_width // 6)
        self.widths = {"time": head_width - 2 * third, "height": third, "width": third}
        self.theta = theta

    def forward(self, rows: int, grid: Sequence[int], device: torch.device) -> Tensor:
        """Unit complex numbers (b n d/2) for the tokens of a grid (f, h, w), in that order; b is 1 unless somebody listens.

        They are worked out on the CPU, in double precision, which not every device has.
        """
        sides = dict(zip(self.widths, grid, strict=True))
        parts = [self._phases(name, sides[name], rows).to(device) for name in self.widths]
        lifted = [phases[(slice(None), *(slice(None) if here == place else None for here in range(3)))]
                  for place, phases in enumerate(parts)]
        b = max(len(phases) for phases in parts)
        return torch.cat([part.expand(b, *grid, -1) for part in lifted], -1).flatten(1, 3)

    def _phases(self, name: str, side: int, rows: int) -> Tensor:
        """Unit complex numbers (b side d) along one direction."""
        angles = self._angles(name, side, rows)
        return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)

    def _angles(self, name: str, side: int, rows: int) -> Tensor:
        """Angles (b side d) along one direction, in double precision."""
        pairs = torch.arange(0, self.widths[name], 2, dtype=torch.float64, device="cpu")
        frequency = self.theta ** -(pairs / self.widths[name])
        angles = torch.outer(torch.arange(side, dtype=torch.float64, device="cpu"), frequency)[None]
        return self.site(name, angles.expand(rows, -1, -1)) if self.listening(name) else angles


def turn(x: Tensor, phases: Tensor) -> Tensor:
    """Turn neighbouring pairs of channels of the heads (b k n d) by the phases (b n d/2)."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * phases[:, None]).flatten(-2).to(x.dtype)
