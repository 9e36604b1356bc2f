"""Schedulers of Wan from diffusers, fresh for every run: UniPC of second order, or Euler steps, both with shifted noise levels."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

KINDS = ("unipc", "euler")


def flow_scheduler(kind: str, shift: float) -> Callable[[int], Any]:
    """A function from the number of steps to a scheduler: sigma' = shift sigma / (1 + (shift - 1) sigma).

    UniPC is diffusers' (Zhao et al. 2023); the published code's own differs from it by up to 4 of 1000 in its timesteps.
    Raises LookupError for another kind.
    """
    if kind not in KINDS:
        raise LookupError(f"no scheduler {kind!r}; there are {', '.join(KINDS)}")
    return partial(_made, kind, shift)


def _made(kind: str, shift: float, steps: int) -> Any:
    import diffusers

    if kind == "euler":
        made: Any = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    else:
        made = diffusers.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)
    made.set_timesteps(steps)
    return made
