"""Euler's rule of the house against the scheduler of diffusers: the same levels, the same bytes, whatever the precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from wanlab.diffusion.euler import Euler


def published(steps: int) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    made: Any = FlowMatchEulerDiscreteScheduler(shift=1.0)
    made.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist())
    return made


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 16, 50, 1000])
def test_levels_are_those_of_diffusers(steps: int) -> None:
    ours, theirs = Euler(steps), published(steps)
    assert torch.equal(ours.sigmas, theirs.sigmas) and torch.equal(ours.timesteps, theirs.timesteps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_steps_are_those_of_diffusers_bit_for_bit(dtype: torch.dtype, placed: str) -> None:
    ours, theirs = Euler(16), published(16)
    x = y = torch.randn(2, 3, 5, dtype=dtype)
    for step in range(16):
        velocity = torch.randn(2, 3, 5, dtype=dtype) * torch.rand(2, 3, 5).exp().to(dtype)
        x = ours.step(velocity, ours.timesteps[step], x, return_dict=False)[0]
        y = theirs.step(velocity, theirs.timesteps[step], y, return_dict=False)[0]
        assert x.dtype == dtype and torch.equal(x, y)


def test_a_step_depends_on_its_place_alone() -> None:
    """Taken again, or as the first of a fresh one, it is the same."""
    velocity, state = torch.randn(2, 3), torch.randn(2, 3)
    one = Euler(5)
    first = [one.step(velocity, at, state)[0] for at in one.timesteps]
    again = [Euler(5).step(velocity, at, state)[0] for at in one.timesteps.flip(0)]
    assert all(torch.equal(a, b) for a, b in zip(first, reversed(again), strict=True))
    assert not torch.equal(first[0], velocity)
