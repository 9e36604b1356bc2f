"""Sampling by rectified flow: the loop over steps and guidance branches. It alone moves the clock.

The state is a dictionary of tensors that are denoised together, {"video": b f c h w, "motion": b f m d} for the cascade. The
noise schedule and the step come from a scheduler that works on velocities: one of diffusers, or Euler's rule. The loop can be
run in segments (`wanlab.diffusion.segment`), the memory of a multistep scheduler included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from wanlab.core import Hookable, clock, stretch
from wanlab.core.gradient import rejoin
from wanlab.diffusion.euler import Euler
from wanlab.diffusion.segment import Paused, State, freeze, here, thaw

Predict = Callable[[State, Tensor, str], State]      # noisy state, level (b), branch -> prediction
Prediction = Literal["x0", "velocity"]

COND, UNCOND = "cond", "uncond"
SITES = ("noise", "x0", "velocity", "difference", "guided", "guided_x0", "latent")


class Sampler(Hookable):
    """Steps along the velocity v = (x - x0) / sigma, guided: v = v_uncond + guidance (v_cond - v_uncond).

    scheduler   steps -> a fresh scheduler of diffusers for velocities; where not given, Euler steps evenly spaced in sigma
    prediction  what the predictor gives: "x0" (it is told sigma), or "velocity" (it is told the scheduler's timestep)

    Guidance as in Ho & Salimans (2022).

    `axes` maps each part of the state to its axes. Sites of a part: `noise`, where the loop begins; then, inside the loop, the
    prediction of each branch as `x0` and as `velocity`, `difference` (v_cond - v_uncond, all that guidance enlarges), the guided
    prediction once a step as `guided` (a velocity) and `guided_x0`, and `latent` after the step. With guidance 1 there is no
    `uncond` branch, and no `difference`.
    """

    def __init__(self, axes: Mapping[str, str], scheduler: Callable[[int], Any] | None = None,
                 prediction: Prediction = "x0") -> None:
        super().__init__()
        self.SITES = {f"{part}.{name}": a for part, a in axes.items() for name in SITES}
        self.ALIKE = {f"{part}.difference": f"{part}.guided" for part in axes}
        self.scheduler, self.prediction = scheduler or Euler, prediction

    def forward(self, noise: State, predict: Predict, steps: int, guidance: float | Sequence[float],
                on_step: Callable[[int, int], None] | None = None) -> State:
        """Denoise `noise` in `steps` steps; `on_step(done, steps)` is called after each. guidance: one number, or one a step.

        In a segment that goes on from a state, `noise` says only which parts there are. Raises Paused where a segment ends early.
        """
        segment, schedulers = here(), {part: self.scheduler(steps) for part in noise}
        if segment.before is None:
            state = {part: self.site(f"{part}.noise", x) for part, x in noise.items()}
        else:
            state = thaw(segment.before, schedulers)
        first = next(iter(schedulers.values()))
        sigmas, times = (moments[:steps].tolist() for moments in (first.sigmas, first.timesteps))
        levels = sigmas if self.prediction == "x0" else times
        scales = [guidance] * steps if isinstance(guidance, (int, float)) else list(guidance)
        run = branches(*scales)
        for step in range(segment.start, steps if segment.until is None else segment.until):
            with clock.at(step=step, sigma=sigmas[step]), stretch.step():
                velocity = stretch.held(self._guided, dict(state), predict, sigmas[step], levels[step], run, scales[step])
                for part, solver in schedulers.items():
                    moved = solver.step(velocity[part], solver.timesteps[step], state[part], return_dict=False)[0]
                    state[part] = self.site(f"{part}.latent", moved)
            if on_step is not None:
                on_step(step + 1, steps)
        if segment.until not in (None, steps):
            raise Paused(freeze(segment.until, state, schedulers, lambda: self.scheduler(steps)))
        return state

    def sigmas(self, steps: int) -> list[float]:
        """The noise level of each step."""
        return self.scheduler(steps).sigmas[:steps].tolist()

    def times(self, steps: int) -> list[float]:
        """The timestep of each step, 1000 at the highest noise."""
        return self.scheduler(steps).timesteps[:steps].tolist()

    def _guided(self, state: State, predict: Predict, sigma: float, level: float, run: Sequence[str], guidance: float) -> State:
        velocity = {branch: self._velocity(state, predict, sigma, level, branch) for branch in run}
        cond = velocity[COND]
        pushed = cond if UNCOND not in velocity else {
            part: self._pushed(f"{part}.difference", v, velocity[UNCOND][part], guidance) for part, v in cond.items()}
        guided = {part: self.site(f"{part}.guided", v, identity=cond[part]) for part, v in pushed.items()}
        return {part: self._through_x0(f"{part}.guided_x0", state[part], v, sigma) for part, v in guided.items()}

    def _pushed(self, site: str, cond: Tensor, uncond: Tensor, guidance: float) -> Tensor:
        """uncond + guidance (cond - uncond); the difference is computed by itself only while somebody listens, and what an edit
        left of it keeps the bytes."""
        pushed = torch.lerp(uncond, cond, guidance)
        if not self.listening(site):
            return pushed
        difference = cond - uncond
        edited = self.site(site, difference)
        return pushed if edited is difference else rejoin(pushed, uncond + guidance * edited, edited != difference)

    def _through_x0(self, site: str, x: Tensor, velocity: Tensor, sigma: float) -> Tensor:
        """A velocity seen as x0, computed only while somebody listens; what an edit left keeps its velocity's bytes."""
        if not self.listening(site):
            return velocity
        x0 = x - sigma * velocity
        edited = self.site(site, x0)
        return velocity if edited is x0 else rejoin(velocity, (x - edited) / sigma, edited != x0)

    def _velocity(self, state: State, predict: Predict, sigma: float, level: float, branch: str) -> State:
        with clock.at(branch=branch):
            some = next(iter(state.values()))
            given = predict(state, torch.full((len(some),), level, device=some.device), branch)
            out = {}
            for part, value in given.items():
                if self.prediction == "x0":
                    value = (state[part] - self.site(f"{part}.x0", value)) / sigma
                else:
                    value = self._through_x0(f"{part}.x0", state[part], value, sigma)
                out[part] = self.site(f"{part}.velocity", value)
            return out


def branches(*guidance: float) -> tuple[str, ...]:
    """The forwards of one step: both branches, or `cond` alone where guidance is 1 (in every step)."""
    return (COND,) if all(scale == 1 for scale in guidance) else (COND, UNCOND)


def draw_noise(seeds: Sequence[int], shapes: Mapping[str, tuple[int, ...]]) -> State:
    """Unit noise for each sample, drawn on the CPU from a generator of its own: it depends on the seed alone."""
    rows: list[State] = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        rows.append({part: torch.randn(shape, generator=generator) for part, shape in shapes.items()})
    return {part: torch.stack([row[part] for row in rows]) for part in shapes}
