"""Placebos on the shipped cascade: as much is cut as the component has, elsewhere, and the same again for the same seed."""

from __future__ import annotations

import math

import pytest
import torch

import wanlab
from wanlab.core.index import positions
from wanlab.pipelines.cascade import Cascade
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


@pytest.mark.parametrize("component", ["fusion", "temporal", "residual", "detail", "gan_head"])
def test_a_placebo_cuts_as_much_elsewhere_in_the_same_nodes(tiny: Cascade, component: str) -> None:
    real = tiny.ablate(component)
    own = {site.name for edit in real for site in tiny.sites(edit.at)}
    for number in range(3):
        edits = draw(tiny, [component], number, seed=0)
        assert edits == draw(tiny, [component], number, seed=0)
        assert cut(tiny, edits) == cut(tiny, real) and {type(edit) for edit in edits} == {type(edit) for edit in real}
        names = [edit.at for edit in edits]
        assert len(set(names)) == len(names) == len(own) and not own & set(names)
        assert {tiny._owner(name) for name in names} == {tiny._owner(name) for name in own}
        tiny.check(edits, tiny.request(torch.zeros(3, 128, 128), "a red circle moves left"))


def test_draws_and_seeds_differ(tiny: Cascade) -> None:
    drawn = {str(draw(tiny, ["temporal"], number, seed)) for number in range(4) for seed in range(2)}
    assert len(drawn) == 8


def test_a_site_without_a_match_is_named(tiny: Cascade) -> None:
    with pytest.raises(ValueError, match=r"no placebo for alignment: align.scope \(f=8\) has no other site of its kind"):
        draw(tiny, ["alignment"], 0, 0)
    with pytest.raises(LookupError, match="temporal"):
        draw(tiny, ["temporl"], 0, 0)
