"""The sampler: where it ends, what guidance does, what it tells the clock, and what noise depends on."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from wanlab.core import Bypass, Scale, Zero, clock, trace
from wanlab.diffusion.euler import Euler
from wanlab.diffusion.sampler import COND, UNCOND, Sampler, State, branches, draw_noise

SHAPES = {"video": (4, 3, 6, 6), "motion": (4, 2, 5)}
AXES = {"video": "b f c h w", "motion": "b f m d"}


@pytest.fixture
def sampler() -> Sampler:
    return Sampler(AXES)


def noise(*seeds: int) -> State:
    return draw_noise(seeds, SHAPES)


def truth(scale: float = 1.0) -> Any:
    """A predictor that knows the clean state, another one in each branch."""
    target = {part: torch.randn(2, *shape, generator=torch.Generator().manual_seed(7)) for part, shape in SHAPES.items()}

    def predict(state: State, sigma: Tensor, branch: str) -> State:
        return {part: x * (1 if branch == COND else scale) for part, x in target.items()}

    return predict, target


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_whoever_predicts_the_truth_reaches_it_from_any_noise(sampler: Sampler, steps: int) -> None:
    predict, target = truth()
    for seeds in ((0, 1), (2, 3)):
        out = sampler(noise(*seeds), predict, steps, 1.0)
        assert all(torch.allclose(out[part], target[part], atol=1e-5) for part in target)


def test_equal_branches_make_guidance_idle(sampler: Sampler) -> None:
    predict, target = truth(scale=1.0)
    out = sampler(noise(0, 1), predict, 3, 4.0)
    assert torch.allclose(out["video"], target["video"], atol=1e-4)


@pytest.mark.parametrize("guidance", [0.0, 0.5, 3.0])
def test_guidance_extrapolates_from_the_unconditional(sampler: Sampler, guidance: float) -> None:
    """One step ends at x0_uncond + guidance (x0_cond - x0_uncond), as velocities differ by x0 alone."""
    predict, target = truth(scale=-0.5)
    out = sampler(noise(0, 1), predict, 1, guidance)
    for part, cond in target.items():
        uncond = -0.5 * cond
        assert torch.allclose(out[part], uncond + guidance * (cond - uncond), atol=1e-5)


def test_steps_follow_eulers_rule(sampler: Sampler) -> None:
    """Written out for a predictor that says half of what it sees."""
    start, steps = noise(0, 1), 4
    out = sampler(start, lambda state, sigma, branch: {part: 0.5 * x for part, x in state.items()}, steps, 1.0)
    x = start["video"]
    for i in range(steps):
        sigma, after = 1 - i / steps, 1 - (i + 1) / steps
        x = x + (after - sigma) * (x - 0.5 * x) / sigma
    assert torch.allclose(out["video"], x, atol=1e-5)


def test_noise_levels_fall_evenly_from_one_to_zero() -> None:
    assert Euler(4).sigmas.tolist() == pytest.approx([1, 0.75, 0.5, 0.25, 0])
    assert Euler(1).sigmas.tolist() == [1, 0]


def test_the_predictor_is_told_the_level_of_every_row(sampler: Sampler) -> None:
    seen: list[tuple[Tensor, str]] = []
    predict, _ = truth()

    def watch(state: State, sigma: Tensor, branch: str) -> State:
        seen.append((sigma, branch))
        return predict(state, sigma, branch)

    sampler(noise(0, 1), watch, 2, 2.0)
    assert [branch for _, branch in seen] == [COND, UNCOND, COND, UNCOND]
    assert [sigma.tolist() for sigma, _ in seen] == [[1, 1], [1, 1], [0.5, 0.5], [0.5, 0.5]]


def test_the_clock_moves_through_steps_and_branches_and_stands_still_after(sampler: Sampler) -> None:
    ticks: list[Any] = []
    predict, _ = truth()

    def watch(state: State, sigma: Tensor, branch: str) -> State:
        ticks.append(clock.now())
        return predict(state, sigma, branch)

    done: list[tuple[int, int]] = []
    sampler(noise(0, 1), watch, 2, 2.0, lambda step, steps: done.append((step, steps)))
    assert [(tick.step, tick.sigma, tick.branch) for tick in ticks] == [
        (0, 1.0, COND), (0, 1.0, UNCOND), (1, 0.5, COND), (1, 0.5, UNCOND)]  # fmt: skip
    assert done == [(1, 2), (2, 2)] and clock.now().step is None


def test_guidance_one_runs_one_branch(sampler: Sampler) -> None:
    assert branches(1.0) == (COND,) and branches(1.5) == (COND, UNCOND)
    seen: list[str] = []
    predict, _ = truth()
    sampler(noise(0, 1), lambda state, sigma, branch: seen.append(branch) or predict(state, sigma, branch), 3, 1.0)
    assert seen == [COND] * 3


def test_removing_guidance_leaves_the_conditional_run(sampler: Sampler) -> None:
    predict, _ = truth(scale=-0.5)
    plain = sampler(noise(0, 1), predict, 2, 1.0)
    with trace(sampler, edits=[Bypass("*.guided")]) as t:
        removed = sampler(noise(0, 1), predict, 2, 3.0)
    assert all(torch.equal(plain[part], removed[part]) for part in plain) and t.ledger.ok


@pytest.mark.parametrize("prediction", ["x0", "velocity"])
def test_the_difference_of_the_branches_is_a_site(prediction: Any) -> None:
    """What is recorded is cond - uncond; without an edit, and with one that changes nothing, the bytes are those of a plain run."""
    sampler, (predict, _) = Sampler(AXES, prediction=prediction), truth(scale=0.5)
    plain = sampler(noise(0, 1), predict, 2, 3.0)
    with trace(sampler, Scale("*.difference", 1.0), capture=["video.velocity", "*.difference"]) as t:
        seen = sampler(noise(0, 1), predict, 2, 3.0)
    cond, uncond = (t.record["video.velocity", 1, branch].tensor for branch in (COND, UNCOND))
    assert torch.equal(t.record["video.difference", 1].tensor, cond - uncond) and (cond - uncond).abs().max() > 0.1
    assert all(torch.equal(plain[part], seen[part]) for part in plain) and t.ledger.ok


def test_scaling_the_difference_is_another_guidance(sampler: Sampler) -> None:
    predict, _ = truth(scale=0.5)
    plain, wanted = (sampler(noise(0, 1), predict, 3, scale) for scale in (2.0, 5.0))
    with trace(sampler, Scale("*.difference", 2.5)):
        scaled = sampler(noise(0, 1), predict, 3, 2.0)
    with trace(sampler, Scale("video.difference", 2.5, rows=1)):
        one_row = sampler(noise(0, 1), predict, 3, 2.0)
    assert all(torch.allclose(wanted[part], scaled[part], atol=1e-5) for part in wanted)
    assert torch.allclose(one_row["video"][1], wanted["video"][1], atol=1e-5)
    assert torch.equal(one_row["video"][0], plain["video"][0]) and torch.equal(one_row["motion"], plain["motion"])


def test_without_the_difference_the_null_condition_is_followed(sampler: Sampler) -> None:
    predict, _ = truth(scale=0.5)
    with trace(sampler, Zero("*.difference")):
        nothing = sampler(noise(0, 1), predict, 2, 3.0)
    null = sampler(noise(0, 1), lambda state, sigma, branch: predict(state, sigma, UNCOND), 2, 1.0)
    assert all(torch.allclose(nothing[part], null[part], atol=1e-6) for part in null)


def test_a_gradient_comes_back_to_the_difference(sampler: Sampler) -> None:
    """d out / d difference: a step of one moves the end by -sigma * guidance."""
    predict, _ = truth(scale=0.5)
    start = {part: value.requires_grad_() for part, value in noise(0).items()}
    with trace(sampler, capture=["video.difference -> grad"]) as t:
        sampler(start, predict, 1, 3.0)["video"].sum().backward()
    grad = t.record["video.difference -> grad"].tensor
    assert torch.allclose(grad, torch.full_like(grad, -3.0))


def test_sites_fire_once_a_step_or_once_a_branch(sampler: Sampler) -> None:
    predict, _ = truth()
    with trace(sampler, capture=["video.*"]) as t:
        sampler(noise(0, 1), predict, 3, 2.0)
    axes = {name: t.record[name].axes for name in t.record}
    assert axes["video.x0"][:2] == axes["video.velocity"][:2] == ("s", "branch")
    assert axes["video.latent"][:2] == axes["video.guided"][:2] == ("s", "b")
    assert t.record["video.latent"].tensor.shape[0] == 3


def test_an_edit_from_a_step_on_leaves_the_state_before(sampler: Sampler) -> None:
    predict, _ = truth()
    with trace(sampler, capture=["video.latent"]) as plain:
        sampler(noise(0, 1), predict, 3, 1.0)
    with trace(sampler, edits=[Zero("video.velocity", steps="1:")], capture=["video.latent"]) as edited:
        sampler(noise(0, 1), predict, 3, 1.0)
    a, b = (t.record["video.latent"].tensor for t in (plain, edited))
    assert torch.equal(a[0], b[0]) and torch.equal(b[1], b[0]) and not torch.equal(a[1], b[1])


def test_noise_depends_on_the_seed_alone() -> None:
    both, again = noise(3, 4), noise(4, 9, 3)
    for part, shape in SHAPES.items():
        assert both[part].shape == (2, *shape)
        assert torch.equal(both[part][0], again[part][2]) and torch.equal(both[part][1], again[part][0])
        assert not torch.equal(both[part][0], both[part][1])
    torch.manual_seed(11)
    assert torch.equal(noise(3)["motion"], both["motion"][:1])


def test_noise_is_of_unit_size() -> None:
    drawn = draw_noise(range(40), {"video": (8, 3, 8, 8)})["video"]
    assert abs(drawn.mean()) < 0.02 and abs(drawn.std() - 1) < 0.02


def test_the_guided_prediction_can_be_read_and_changed_as_x0(sampler: Sampler) -> None:
    """x0 = x - sigma v; what an edit puts there is where the last step ends."""
    predict, target = truth(scale=0.5)
    with trace(sampler, capture=["video.guided_x0", "video.x0", "video.noise"]) as t:
        plain = sampler(noise(0, 1), predict, 2, 3.0)
    cond, uncond = (t.record["video.x0", 0, branch].tensor for branch in (COND, UNCOND))
    assert torch.allclose(t.record["video.guided_x0", 0].tensor, uncond + 3 * (cond - uncond), atol=1e-5)
    assert torch.equal(t.record["video.noise"].tensor, noise(0, 1)["video"])
    with trace(sampler, Zero("video.guided_x0", rows=1, steps="last"), steps=2):
        edited = sampler(noise(0, 1), predict, 2, 3.0)
    assert torch.allclose(edited["video"][1], torch.zeros_like(target["video"][1]), atol=1e-5)
    assert torch.equal(edited["video"][0], plain["video"][0]) and torch.equal(edited["motion"], plain["motion"])


def unipc(steps: int) -> Any:
    """Wan's scheduler: two earlier predictions enter each step."""
    from diffusers import UniPCMultistepScheduler

    made = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    made.set_timesteps(steps)
    return made


def test_a_velocity_predictor_with_a_multistep_scheduler_follows_diffusers_loop() -> None:
    sampler = Sampler({"video": "b f c h w"}, unipc, prediction="velocity")
    start, seen = {"video": noise(0, 1)["video"]}, []

    def predict(state: State, time: Tensor, branch: str) -> State:
        seen.append(time.tolist())
        return {"video": state["video"] * (0.5 if branch == COND else 0.2) + time.view(-1, 1, 1, 1, 1) / 1000}

    out = sampler(start, predict, 4, 3.0)["video"]
    solver, x = unipc(4), start["video"]
    for t in solver.timesteps:
        cond, uncond = (x * factor + t / 1000 for factor in (0.5, 0.2))
        x = solver.step(uncond + 3.0 * (cond - uncond), t, x, return_dict=False)[0]
    assert torch.allclose(out, x, atol=1e-5)
    assert [one[0] for one in seen[::2]] == solver.timesteps.tolist()


def test_the_x0_of_a_velocity_predictor_can_be_read_and_changed() -> None:
    sampler = Sampler({"video": "b f c h w"}, unipc, prediction="velocity")
    start = {"video": noise(0, 1)["video"]}

    def predict(state: State, time: Tensor, branch: str) -> State:
        return {"video": state["video"]}

    with torch.no_grad():
        plain = sampler(start, predict, 3, 1.0)["video"]
        with trace(sampler, capture=["video.x0", "video.velocity"]) as t:
            seen = sampler(start, predict, 3, 1.0)["video"]
        with trace(sampler, Zero("video.x0", rows=1)):
            edited = sampler(start, predict, 3, 1.0)["video"]
    sigma = unipc(3).sigmas[0]
    assert torch.equal(seen, plain)
    assert torch.allclose(t.record["video.x0", 0, COND].tensor, (1 - sigma) * start["video"], atol=1e-6)
    assert torch.allclose(edited[1], torch.zeros_like(edited[1]), atol=1e-5) and torch.equal(edited[0], plain[0])
