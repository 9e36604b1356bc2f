"""The guidance ledger against both branches computed by hand, and branches put into each other where the answer is known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

import wanlab
from wanlab.analysis import cells, guidance, readouts
from wanlab.analysis.contrast import ContrastError
from wanlab.core import BudgetError, Bypass

VELOCITY, BLOCK = "sampler.video.velocity", "generator.mid.resid_post"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return wanlab.load("tiny")


@pytest.fixture(scope="module")
def request_(pipe: Any) -> Any:
    image = torch.linspace(0.2, 0.8, 128).expand(3, 128, 128)
    return pipe.request(image, "a red circle moves left", [0, 1], steps=2, guidance=2.0)


def test_numbers_and_directions_are_those_of_the_two_branches(pipe: Any, request_: Any) -> None:
    """As they pass, and of both branches of all steps kept: of video, tokens, heads, and of what is read of attention."""
    sites = [BLOCK, VELOCITY, "generator.mid.temporal.attn.z", "generator.mid.cross.attn.mass"]
    found = guidance.ledger(pipe, request_, sites)
    record = cells.generate(pipe, request_, capture=sites).record
    for site in sites:
        cond, uncond = ([record[site, step, branch].tensor.double().flatten(1) for step in range(2)]
                        for branch in ("cond", "uncond"))
        push = [one - other for one, other in zip(cond, uncond, strict=True)]
        for step in range(2):
            numbers = found.numbers.sel(site=site, step=step)
            turn = torch.cosine_similarity(push[1], push[0], dim=1) if step else torch.full((2,), torch.nan)
            known = {"size": push[step].square().mean(1).sqrt(), "share": push[step].norm(dim=1) / cond[step].norm(dim=1),
                     "cosine": torch.cosine_similarity(push[step], cond[step], dim=1), "turn": turn}
            for name, value in known.items():
                told = pytest.approx(value.numpy(), rel=1e-5, abs=1e-7, nan_ok=True)
                assert numbers[name].values == told, (site, name)
    direction, axes = found.direction(BLOCK), record[BLOCK, 1, "cond"].axes
    assert direction.sizes == {"step": 2, "channel": 96} and np.allclose((direction**2).sum("channel"), 1)
    mean = (record[BLOCK, 1, "cond"].tensor - record[BLOCK, 1, "uncond"].tensor).movedim(axes.index("c"), -1).flatten(0, -2).mean(0)
    assert np.allclose(direction.sel(step=1) * direction.length.sel(step=1), mean, atol=1e-6)
    with pytest.raises(ContrastError, match=r"'generator.mid.resid_pots' was not followed; nearest: generator.mid.resid_post"):
        found.direction("generator.mid.resid_pots")
    steered = cells.generate(pipe, request_, edits=[wanlab.Steer(f"{BLOCK}@branch=uncond", direction.sel(step=1).values)])
    assert steered.video.shape == (2, 8, 3, 128, 128)


def test_what_a_ledger_holds_does_not_grow_with_the_steps(pipe: Any) -> None:
    """Its budget is that of one branch of one step and one difference; the same run's branches need as much again for each step."""
    numbers = 2 * math.prod(next(iter(pipe.sites(BLOCK))).shape[1:])
    for steps in (2, 5):
        request = pipe.request(torch.full((3, 128, 128), 0.5), "a red circle moves left", [0, 1], steps=steps, guidance=2.0)
        assert guidance.ledger(pipe, request, BLOCK, budget=8 * numbers).numbers.sizes["step"] == steps
        with pytest.raises(BudgetError, match=r"1 sites hold .* GiB at a time"):
            guidance.ledger(pipe, request, BLOCK, budget=8 * numbers - 1)
        with pytest.raises(BudgetError):
            cells.generate(pipe, request, capture=BLOCK, budget=8 * numbers)


def test_a_ledger_leaves_the_run_as_it_is_and_sees_it_under_edits(pipe: Any, request_: Any) -> None:
    heard = guidance._Push(next(iter(pipe.sites(BLOCK))))
    plain = cells.generate(pipe, request_).video
    assert torch.equal(cells.generate(pipe, request_, edits=[guidance._Heard(BLOCK, push=heard, budget=None)]).video, plain)
    assert heard.numbers.sizes == {"step": 2, "row": 2}
    alike = guidance.ledger(pipe, request_, BLOCK, edits=[wanlab.Zero("text.{out,mask}"), wanlab.Zero("fusion.pooled")])
    assert (alike.numbers["size"] < 0.1 * guidance.ledger(pipe, request_, BLOCK).numbers["size"]).all()


@pytest.mark.slow
def test_a_branch_put_into_the_other_at_the_end_of_a_step_is_that_step_without_guidance(pipe: Any, request_: Any) -> None:
    like = readouts.likeness(cells.generate(pipe, request_).video)
    table = guidance.crossed(pipe, request_, ["sampler.*.velocity", BLOCK], {"like": like}, windows=2, into="uncond")
    for step in ("0:1", "1:2"):
        only_video = cells.generate(pipe, request_, edits=[Bypass("sampler.video.guided", steps=step)])
        told = table[(table.site == VELOCITY) & (table.steps == step)]
        assert told.value.tolist() == pytest.approx(like(only_video).tolist(), abs=1e-9) and (told.change < 0).all()
    assert (table.base == 0).all() and len(table) == 2 * 2 * 3
    half = 4 * 2 * math.prod(next(iter(pipe.sites(BLOCK))).shape[1:])           # bytes of one branch of one of the two steps
    alone = guidance.crossed(pipe, request_, BLOCK, {"like": like}, windows=["1:2"], budget=half)
    assert alone.value.tolist() == table[(table.site == BLOCK) & (table.steps == "1:2")].value.tolist()
    with pytest.raises(ContrastError, match="no branch 'kond'; nearest: cond"):
        guidance.crossed(pipe, request_, VELOCITY, {"like": like}, into="kond")


def test_where_there_is_one_branch_alone_there_is_no_ledger(pipe: Any, request_: Any) -> None:
    with pytest.raises(ContrastError, match="guidance 1 runs the branch cond alone"):
        guidance.ledger(pipe, pipe.request(None, "", 0, guidance=1), VELOCITY)
    with pytest.raises(ContrastError, match=r"image.tokens does not fire in each branch"):
        guidance.ledger(pipe, request_, "image.tokens")


def test_wan_has_a_ledger_too() -> None:
    from wanlab.pipelines.wan_parts import random_pipeline
    from wanlab.pipelines.wan_presets import PRESETS

    wan = random_pipeline(PRESETS["wan-random-tiny-t2v"])
    request = wan.request(None, "a red circle", 0, steps=2)
    numbers = guidance.ledger(wan, request, "dit.blocks.*.resid_post").numbers
    assert numbers.sizes["site"] == len(wan.sites("dit.blocks.*.resid_post")) and (numbers["size"] > 0).all()
    crossed = guidance.crossed(wan, request, "dit.blocks.0.resid_post", {"like": readouts.likeness(wan.generate(
        None, "a red circle", 0, steps=2).video)}, into="cond")
    assert (crossed.change < 0).all()
