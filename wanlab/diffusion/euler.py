"""Euler's rule for rectified flow, as FlowMatchEulerDiscreteScheduler of diffusers takes it, bit for bit.

Its own, as that class is three seconds of imports (all of torch's compiler and of scipy's statistics) for a line of arithmetic, and
the cascade needs nothing else of diffusers.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Euler:
    """Steps over noise levels that fall evenly from 1 to 1/steps, then 0, with the face of a scheduler of diffusers.

    It remembers nothing, so that a loop may pause and go on anywhere.
    """

    def __init__(self, steps: int) -> None:
        levels = torch.linspace(1, 1 / steps, steps, device="cpu")
        self.timesteps = 1000 * levels
        self.sigmas = torch.cat([levels, torch.zeros(1, device="cpu")])

    def step(self, velocity: Tensor, timestep: Tensor, state: Tensor, **_: Any) -> tuple[Tensor]:
        """From the level of `timestep` (one of `timesteps`) to the next: x + (sigma' - sigma) v, summed in float32."""
        at = int((self.timesteps == timestep).nonzero()[0])
        moved = state.float() + (self.sigmas[at + 1] - self.sigmas[at]) * velocity
        return (moved.to(velocity.dtype),)
