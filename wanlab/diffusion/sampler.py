"""Sampling by rectified flow: the loop over steps and guidance branches. It alone moves the clock.

The state is a dictionary of tensors that are denoised together, {"video": b f c h w, "motion": b f m d} for the cascade. The
noise schedule and the step come from diffusers' FlowMatchEulerDiscreteScheduler.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from wanlab.core import Hookable, clock, stretch
from wanlab.core.gradient import rejoin

State = dict[str, Tensor]
Predict = Callable[[State, Tensor, str], State]      # noisy state, sigma (b), branch -> clean state

COND, UNCOND = "cond", "uncond"
SITES = ("noise", "x0", "velocity", "guided", "guided_x0", "latent")


class Sampler(Hookable):
    """Euler steps along the velocity v = (x - x0) / sigma, guided: v = v_uncond + guidance (v_cond - v_uncond).

    Guidance as in Ho & Salimans (2022).

    `axes` maps each part of the state to its axes. Sites of a part: `noise`, where the loop begins; then, inside the loop, the
    prediction of each branch as `x0` and as `velocity`, the guided one once a step as `guided` (a velocity) and `guided_x0`, and
    `latent` after the step. With guidance 1 there is no `uncond` branch.
    """

    def __init__(self, axes: Mapping[str, str]) -> None:
        super().__init__()
        self.SITES = {f"{part}.{name}": a for part, a in axes.items() for name in SITES}

    def forward(self, noise: State, predict: Predict, steps: int, guidance: float,
                on_step: Callable[[int, int], None] | None = None) -> State:
        """Denoise `noise` in `steps` steps; `on_step(done, steps)` is called after each."""
        schedulers = {part: scheduler(steps) for part in noise}
        state = {part: self.site(f"{part}.noise", x) for part, x in noise.items()}
        sigmas = next(iter(schedulers.values())).sigmas[:steps].tolist()
        for step, sigma in enumerate(sigmas):
            with clock.at(step=step, sigma=sigma), stretch.step():
                velocity = stretch.held(self._guided, dict(state), predict, sigma, guidance)
                for part, solver in schedulers.items():
                    moved = solver.step(velocity[part], solver.timesteps[step], state[part], return_dict=False)[0]
                    state[part] = self.site(f"{part}.latent", moved)
            if on_step is not None:
                on_step(step + 1, steps)
        return state

    def _guided(self, state: State, predict: Predict, sigma: float, guidance: float) -> State:
        velocity = {branch: self._velocity(state, predict, sigma, branch) for branch in branches(guidance)}
        cond = velocity[COND]
        pushed = cond if UNCOND not in velocity else {
            part: torch.lerp(velocity[UNCOND][part], v, guidance) for part, v in cond.items()}
        guided = {part: self.site(f"{part}.guided", v, identity=cond[part]) for part, v in pushed.items()}
        return {part: self._through_x0(part, state[part], v, sigma) for part, v in guided.items()}

    def _through_x0(self, part: str, x: Tensor, velocity: Tensor, sigma: float) -> Tensor:
        """The guided prediction as x0, computed only while somebody listens; what an edit left keeps its velocity's bytes."""
        if not self.listening(f"{part}.guided_x0"):
            return velocity
        x0 = x - sigma * velocity
        edited = self.site(f"{part}.guided_x0", x0)
        return velocity if edited is x0 else rejoin(velocity, (x - edited) / sigma, edited != x0)

    def _velocity(self, state: State, predict: Predict, sigma: float, branch: str) -> State:
        with clock.at(branch=branch):
            b = len(next(iter(state.values())))
            level = torch.full((b,), sigma, device=next(iter(state.values())).device)
            clean = predict(state, level, branch)
            out = {}
            for part, x0 in clean.items():
                x0 = self.site(f"{part}.x0", x0)
                out[part] = self.site(f"{part}.velocity", (state[part] - x0) / sigma)
            return out


def branches(guidance: float) -> tuple[str, ...]:
    """The forwards of one step: both branches, or `cond` alone where guidance is 1."""
    return (COND,) if guidance == 1 else (COND, UNCOND)


def scheduler(steps: int) -> Any:
    """A fresh FlowMatchEulerDiscreteScheduler with sigma falling evenly from 1 to 1/steps, then 0."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    made: Any = FlowMatchEulerDiscreteScheduler(shift=1.0)
    made.set_timesteps(sigmas=torch.linspace(1, 1 / steps, steps).tolist())
    return made


def draw_noise(seeds: Sequence[int], shapes: Mapping[str, tuple[int, ...]]) -> State:
    """Unit noise for each sample, drawn on the CPU from a generator of its own: it depends on the seed alone."""
    rows: list[State] = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append({part: torch.randn(shape, generator=generator) for part, shape in shapes.items()})
    return {part: torch.stack([row[part] for row in rows]) for part in shapes}
