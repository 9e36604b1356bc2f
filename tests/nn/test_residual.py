"""Residual links, the blocks built from them, and the rearrangements of the cascade."""

from __future__ import annotations

import pytest
import torch

from wanlab.core import Bypass, Scale, Zero, trace
from wanlab.nn.residual import ResBlock, Residual, TemporalMix, enlarge, shuffle, unshuffle


@pytest.fixture
def pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(2, 3, 4, 6, 6), torch.randn(2, 3, 4, 6, 6)


def test_the_links_add_up_and_each_can_be_cut_or_scaled(pair) -> None:
    skip, branch = pair
    link = Residual()
    assert torch.equal(link(skip, branch), skip + branch)
    with trace(link, edits=[Zero("skip")]):
        assert torch.equal(link(skip, branch), branch)
    with trace(link, edits=[Scale("branch", factor=0.5)]):
        assert torch.allclose(link(skip, branch), skip + 0.5 * branch)
    with trace(link, edits=[Bypass("out")]):
        assert torch.equal(link(skip, branch), skip)
    assert torch.equal(link(skip, branch), skip + branch)


def test_a_network_built_without_the_link_has_only_its_branch(pair) -> None:
    assert torch.equal(Residual(link=0.0)(*pair), pair[1])


def test_shapes_that_differ_are_told(pair) -> None:
    with pytest.raises(ValueError, match=r"skip is \(2, 3, 4, 6, 6\) but the branch is \(2, 3, 4, 6, 5\)"):
        Residual()(pair[0], pair[1][..., :5])


def test_a_block_shares_the_sites_of_its_link(pair) -> None:
    block = ResBlock(4)
    with trace(block, edits=[Bypass("branch")]):
        assert torch.equal(block(pair[0]), pair[0])
    whole = block(pair[0])
    with trace(block, edits=[Zero("skip")]):
        assert torch.allclose(block(pair[0]) + pair[0], whole, atol=1e-6)


def test_frames_are_mixed_with_their_neighbours_alone() -> None:
    mix = TemporalMix(4)
    torch.nn.init.normal_(mix.taps)
    x = torch.randn(1, 8, 4, 2, 2)
    changed = x.clone()
    changed[:, 3] += 1
    moved = (mix(x) - mix(changed)).abs().amax((0, 2, 3, 4)) > 0
    assert moved.tolist() == [False, False, True, True, True, False, False, False]
    with trace(mix, edits=[Bypass("out")]):
        assert torch.equal(mix(x), x)


def test_unshuffle_is_undone_by_shuffle_and_is_torchs(pair) -> None:
    small = unshuffle(pair[0])
    assert torch.equal(shuffle(small), pair[0])
    assert torch.equal(small, torch.nn.functional.pixel_unshuffle(pair[0], 2))
    with pytest.raises(ValueError, match="even sides, got 6x5"):
        unshuffle(pair[0][..., :5])


def test_enlarge_is_bicubic_per_frame(pair) -> None:
    one = torch.nn.functional.interpolate(pair[0][1], scale_factor=2, mode="bicubic")
    assert torch.allclose(enlarge(pair[0])[1], one, atol=1e-6)
