"""Placebos on the shipped cascade: as much is cut as the component has, elsewhere, and the same again for the same seed."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

import wanlab
from wanlab.core.index import positions
from wanlab.pipelines.cascade import Cascade
from wanlab.runs import placebo
from wanlab.runs.placebo import draw


@pytest.fixture(scope="module")
def tiny() -> Cascade:
    return wanlab.load("tiny")


def cut(pipe: Cascade, edits: list) -> int:
    """How many numbers of one row the edits reach."""
    total = 0
    for edit in edits:
        for site in pipe.sites(edit.at):
            size = math.prod(site.shape[1:])
            for keyword, axis in (("heads", "k"), ("channels", "c")):
                if (index := getattr(edit, keyword)) is not None:
                    size = size // site.size(axis) * len(positions(index, site.size(axis), keyword))
            total += size
    return total


@pytest.mark.parametrize("component", ["temporal", "residual", "detail", "gan_head"])
def test_a_placebo_cuts_as_much_elsewhere(tiny: Cascade, component: str) -> None:
    real = tiny.ablate(component)
    own = {site.name for edit in real for site in tiny.sites(edit.at)}
    for number in range(3):
        edits = draw(tiny, [component], number, seed=0)
        assert edits == draw(tiny, [component], number, seed=0)
        assert cut(tiny, edits) == cut(tiny, real) and {type(edit) for edit in edits} == {type(edit) for edit in real}
        names = [edit.at for edit in edits]
        assert len(set(names)) == len(names) == len(own) and not own & set(names)
        nodes = {"upsample.0", "upsample.1"} if component == "detail" else {tiny._owner(name) for name in own}
        assert {tiny._owner(name) for name in names} <= nodes       # detail takes all of its node
        tiny.check(edits, tiny.request(torch.zeros(3, 128, 128), "a red circle moves left"))


IMAGE = torch.rand(3, 128, 128, generator=torch.Generator().manual_seed(0))


@pytest.mark.slow
@pytest.mark.parametrize("component", ["temporal", "residual", "detail", "gan_head"])
def test_a_placebo_is_no_part_of_the_component_and_takes_none_with_it(tiny: Cascade, component: str) -> None:
    """Seen in videos: each cut changes what the other leaves."""

    def video(*edits: Any) -> torch.Tensor:
        return tiny.generate(IMAGE, "a red circle moves left", steps=1, edits=edits).video

    real = [edit for one in tiny.ablate(component) for edit in each(tiny, one)]
    without = video(*real)
    for number in range(2):
        drawn = draw(tiny, [component], number, seed=0)
        for edit in drawn:
            assert not torch.equal(video(*real, edit), without), f"{edit.at} is a part of {component}"
        left = video(*drawn)
        for edit in real:
            assert not torch.equal(video(*drawn, edit), left), f"{[edit.at for edit in drawn]} take {edit.at} with them"


def each(pipe: Cascade, edit: Any) -> list:
    """The edit at each of its sites."""
    return [replace(edit, at=site.name) for site in pipe.sites(edit.at)]


def test_what_feeds_the_component_alone_and_what_it_is_within_are_not_drawn(tiny: Cascade) -> None:
    drawn = {component: {edit.at for number in range(8) for edit in draw(tiny, [component], number, seed=0)}
             for component in ("gan_head", "detail", "temporal")}  # fmt: skip
    assert drawn["gan_head"] and all(name.startswith(("detail.content", "detail.sharpen.")) for name in drawn["gan_head"])
    assert drawn["detail"] and not any(name.startswith("detail.") for name in drawn["detail"])
    assert drawn["temporal"] and all(name.endswith((".spatial.out", ".cross.out", ".mlp.out")) for name in drawn["temporal"])


def test_there_are_not_more_draws_than_differ(tiny: Cascade, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placebo, "_alike", lambda *_: [(True, placebo.Candidate("detail.content"))])
    assert [edit.at for edit in draw(tiny, ["gan_head"], 0, seed=0)] == ["detail.content"]
    with pytest.raises(ValueError, match=r"no placebo 1 for gan_head: .* gave 1 that differ .*detail.gan: 1\); ask for 1 draws"):
        draw(tiny, ["gan_head"], 1, seed=0)


def test_draws_and_seeds_differ(tiny: Cascade) -> None:
    drawn = {str(draw(tiny, ["temporal"], number, seed)) for number in range(4) for seed in range(2)}
    assert len(drawn) == 8


def test_a_site_without_a_match_is_named(tiny: Cascade) -> None:
    with pytest.raises(ValueError, match=r"no placebo for alignment: outside of it no other site is like align.scope \(f=8\)$"):
        draw(tiny, ["alignment"], 0, 0)
    few = r"fusion.out \(n=67 c=64\); of 2 that are alike, 2 are parts of it, 0 are not to be cut without it, 0 are drawn already"
    with pytest.raises(ValueError, match=few):
        draw(tiny, ["fusion"], 0, 0)
    with pytest.raises(LookupError, match="temporal"):
        draw(tiny, ["temporl"], 0, 0)
