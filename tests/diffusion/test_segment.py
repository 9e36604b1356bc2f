"""Segments: a loop that pauses and goes on gives the bytes of one that never stopped, whatever its scheduler remembers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from wanlab.core import LedgerError, clock, trace
from wanlab.core.rows import ONCE, cut, join
from wanlab.core.values import Scale
from wanlab.diffusion.euler import Euler
from wanlab.diffusion.sampler import Sampler, State, draw_noise
from wanlab.diffusion.segment import Paused, freeze, segment, thaw

# diffusers 0.42 hands tensors to np.array in DPMSolverMultistepScheduler, of which numpy 2 warns
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPES = {"video": (4, 3, 6, 6), "motion": (4, 2, 5)}
STEPS = 7


def unipc(steps: int, order: int = 3) -> Any:
    from diffusers import UniPCMultistepScheduler

    made = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, solver_order=order)
    made.set_timesteps(steps)
    return made


def dpm(steps: int) -> Any:
    from diffusers import DPMSolverMultistepScheduler

    made = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0, solver_order=3)
    made.set_timesteps(steps)
    return made


SCHEDULERS = {"euler": Euler, "unipc": unipc, "dpm": dpm}


def predict(state: State, level: Tensor, branch: str) -> State:
    """Something nonlinear that depends on all there is."""
    other = state["motion"].mean((1, 2, 3))
    shift = 0.3 if branch == "cond" else -0.2
    return {"video": torch.tanh(state["video"] * 0.7 + shift + 0.1 * other[:, None, None, None, None]),
            "motion": torch.sin(state["motion"] + level[:, None, None, None])}


def sampler(name: str) -> Sampler:
    return Sampler({"video": "b f c h w", "motion": "b f m d"}, SCHEDULERS[name])


def run(loop: Sampler, seeds: tuple[int, ...] = (0, 1), guidance: float = 2.0) -> State:
    return loop(draw_noise(seeds, SHAPES), predict, STEPS, guidance)


def paused(loop: Sampler, until: int, before: State | None = None, **given: Any) -> State:
    with segment(before, until), pytest.raises(Paused) as stop:
        run(loop, **given)
    return stop.value.state


@pytest.mark.parametrize("name", SCHEDULERS)
@settings(max_examples=12, deadline=None)
@given(cuts=st.sets(st.integers(1, STEPS - 1), max_size=4))
def test_a_loop_in_segments_gives_the_bytes_of_the_whole(name: str, cuts: set[int]) -> None:
    loop, state = sampler(name), None
    for until in sorted(cuts):
        state = paused(loop, until, state)
    with segment(state):
        out = run(loop)
    whole = run(loop)
    assert all(torch.equal(out[part], whole[part]) for part in whole)


@pytest.mark.parametrize("name", ["unipc", "dpm"])
def test_a_multistep_scheduler_set_to_an_index_is_off_and_one_restored_is_not(name: str) -> None:
    """Beside a deep copy, which is what a restored scheduler must be equal to."""
    make, x = SCHEDULERS[name], draw_noise([0], {"x": (3, 8)})["x"]

    def on(solver: Any, x: Tensor, start: int) -> Tensor:
        for step in range(start, STEPS):
            x = solver.step(torch.tanh(x), solver.timesteps[step], x, return_dict=False)[0]
        return x

    solver = make(STEPS)
    for step in range(4):
        x = solver.step(torch.tanh(x), solver.timesteps[step], x, return_dict=False)[0]
    state, restored, indexed = freeze(4, {"x": x}, {"x": solver}, lambda: make(STEPS)), make(STEPS), make(STEPS)
    assert torch.equal(thaw(state, {"x": restored})["x"], x)
    indexed.set_begin_index(4)
    wanted = on(copy.deepcopy(solver), x, 4)
    assert torch.equal(on(restored, x, 4), wanted)
    assert (on(indexed, x, 4) - wanted).abs().max() > 1e-4


def test_a_state_is_a_few_tensors_that_hold_rows_apart_from_the_rest() -> None:
    loop = sampler("unipc")
    state = paused(loop, 4)
    with_rows = {name: value for name, value in state.items() if not name.startswith(ONCE)}
    assert set(SHAPES) < set(with_rows) and all(len(value) == 2 for value in with_rows.values())
    size = sum(value.nbytes for value in state.values())
    latents = sum(state[part].nbytes for part in SHAPES)
    assert size < 6 * latents                   # three predictions and a sample, and no table of a thousand betas
    assert sum(value.nbytes for value in paused(sampler("euler"), 4).values()) < latents + 1000


def test_rows_of_a_state_can_be_parted_and_joined() -> None:
    loop = sampler("unipc")
    both, first, second = (paused(loop, 4, seeds=seeds) for seeds in ((0, 1), (0,), (1,)))
    joined = join([first, second])
    assert all(torch.allclose(joined[name], both[name], atol=1e-6) for name in both if not name.startswith(ONCE))
    with segment(cut(both, slice(1, 2))):
        alone = run(loop, seeds=(1,))
    assert torch.allclose(alone["video"], run(loop)["video"][1:], atol=1e-5)
    with pytest.raises(ValueError, match="batches with another once:"):
        join([paused(loop, 4, seeds=(0,)), paused(loop, 5, seeds=(1,))])


def test_the_clock_runs_on_and_the_noise_is_not_drawn_again() -> None:
    loop, seen = sampler("euler"), []
    state = paused(loop, 5)

    def watch(state: State, level: Tensor, branch: str) -> State:
        seen.append((clock.now().step, round(clock.now().sigma or 0, 4)))
        return predict(state, level, branch)

    nothing = {name: torch.full((2, *shape), torch.nan) for name, shape in SHAPES.items()}
    with segment(state) as part, trace(loop, capture=["video.latent"], steps=STEPS, start=part.start) as t:
        out = loop(nothing, watch, STEPS, 1.0)
    assert seen == [(5, 0.2857), (6, 0.1429)] and out["video"].isfinite().all()
    assert [key.step for key in t.record.firings] == [5, 6]
    with pytest.raises(LedgerError, match="noise: the site never fired"), segment(state), trace(loop, capture="video.noise"):
        run(loop)


def test_what_acts_in_a_segment_is_held_against_its_steps_alone() -> None:
    loop = sampler("euler")
    with segment(until=3) as part, clock.announce(steps=STEPS, start=part.start, stop=part.until), \
            trace(loop, Scale("video.latent", 0.5, steps="1:5")) as t, pytest.raises(Paused):
        run(loop)
    assert t.ledger.ok and [moment[0] for line in t.ledger for moment in line.acted] == [1, 2]


def test_what_cannot_be_written_down_is_refused_by_name() -> None:
    solver: Any = unipc(STEPS)
    solver.solver_p = object()
    with pytest.raises(TypeError, match=r"UniPCMultistepScheduler keeps a object in x\.solver_p"):
        freeze(1, {"x": torch.zeros(1, 2)}, {"x": solver}, lambda: unipc(STEPS))


def test_segments_end_with_their_block_also_in_an_exception() -> None:
    loop: Callable[..., Any] = sampler("euler")
    with pytest.raises(ZeroDivisionError), segment(until=2):
        raise ZeroDivisionError
    assert run(loop)["video"].shape == (2, *SHAPES["video"])
