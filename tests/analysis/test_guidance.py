"""The guidance ledger against both branches computed by hand, and branches put into each other where the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import wanlab
from wanlab.analysis import cells, guidance, readouts
from wanlab.analysis.contrast import ContrastError
from wanlab.core import Bypass

VELOCITY, BLOCK = "sampler.video.velocity", "generator.mid.resid_post"


@pytest.fixture(scope="module")
def pipe() -> Any:
    return wanlab.load("tiny")


@pytest.fixture(scope="module")
def request_(pipe: Any) -> Any:
    image = torch.linspace(0.2, 0.8, 128).expand(3, 128, 128)
    return pipe.request(image, "a red circle moves left", [0, 1], steps=2, guidance=2.0)


def test_numbers_and_directions_are_those_of_the_two_branches(pipe: Any, request_: Any) -> None:
    found = guidance.ledger(pipe, request_, [BLOCK, VELOCITY])
    record = cells.generate(pipe, request_, capture=[BLOCK, "sampler.video.{velocity,guided}"]).record
    cond, uncond, guided = (record["sampler.video.guided" if branch is None else VELOCITY, 1, branch].tensor.flatten(1)
                            for branch in ("cond", "uncond", None))
    numbers = found.numbers.sel(site=VELOCITY, step=1)
    assert numbers["size"].values == pytest.approx(((cond - uncond).square().mean(1).sqrt()).numpy(), rel=1e-5)
    assert numbers["share"].values == pytest.approx(((guided - cond).norm(dim=1) / cond.norm(dim=1)).numpy(), rel=1e-3)
    assert numbers["cosine"].values == pytest.approx(torch.cosine_similarity(cond - uncond, cond, dim=1).numpy(), rel=1e-4)
    assert np.isnan(found.numbers["turn"].sel(step=0)).all() and (abs(found.numbers["turn"].sel(step=1)) <= 1).all()
    direction = found.direction(BLOCK)
    assert direction.sizes == {"step": 2, "channel": 96} and np.allclose((direction**2).sum("channel"), 1)
    steered = cells.generate(pipe, request_, edits=[wanlab.Steer(f"{BLOCK}@branch=uncond", direction.sel(step=1).values)])
    assert steered.video.shape == (2, 8, 3, 128, 128)


@pytest.mark.slow
def test_a_branch_put_into_the_other_at_the_end_of_a_step_is_that_step_without_guidance(pipe: Any, request_: Any) -> None:
    like = readouts.likeness(cells.generate(pipe, request_).video)
    table = guidance.crossed(pipe, request_, ["sampler.*.velocity", BLOCK], {"like": like}, windows=2, into="uncond")
    without = {step: [] for step in ("0:1", "1:2")}
    for step, edits in without.items():
        edits += [Bypass(f"sampler.{part}.guided", steps=step) for part in ("video", "motion")]
    only_video = cells.generate(pipe, request_, edits=[Bypass("sampler.video.guided", steps="1:2")])
    told = table[(table.site == VELOCITY) & (table.steps == "1:2")]
    assert told.value.tolist() == pytest.approx(like(only_video).tolist(), abs=1e-9) and (told.change < 0).all()
    assert (table.base == 0).all() and len(table) == 2 * 2 * 3
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
