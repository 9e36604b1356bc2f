"""Clips: rows stay together."""

from __future__ import annotations

import pytest
import torch

from wanlab.data.clip import Clips
from wanlab.data.procedural import World


@pytest.fixture(scope="module")
def clips() -> Clips:
    return World(size=16).batch(range(4))


@pytest.mark.parametrize("rows", [slice(1, 3), [1, 2]], ids=str)
def test_rows_stay_together(clips: Clips, rows: slice | list[int]) -> None:
    some = clips[rows]
    assert len(some) == 2
    assert torch.equal(some.video, clips.video[1:3])
    assert some.captions == clips.captions[1:3]
    assert some.factors == clips.factors[1:3]  # type: ignore[index]


def test_one_row_is_still_a_batch_and_iteration_ends(clips: Clips) -> None:
    assert clips[-1].captions == clips.captions[3:]
    assert [one.captions[0] for one in clips] == clips.captions
    with pytest.raises(IndexError, match="clip 4 of 4"):
        clips[4]


def test_stack_undoes_taking_apart(clips: Clips) -> None:
    again = Clips.stack([clips[:1], clips[1:]])
    assert torch.equal(again.video, clips.video)
    assert torch.equal(again.masks, clips.masks)  # type: ignore[arg-type]
    assert again.captions == clips.captions
    with pytest.raises(ValueError, match="no clips"):
        Clips.stack([])


def test_stack_leaves_out_what_one_batch_lacks(clips: Clips) -> None:
    mixed = Clips.stack([clips, Clips(torch.zeros(1, 8, 3, 16, 16))])
    assert mixed.masks is None
    assert mixed.captions[-1] == ""


def test_to_changes_floats_alone() -> None:
    clips = World(size=16).batch([0], truth=True).to("cpu", torch.float16)
    assert clips.video.dtype == torch.float16
    assert clips.occlusion is not None
    assert clips.occlusion.dtype == torch.bool


def test_mismatches_name_both_numbers() -> None:
    with pytest.raises(ValueError, match="captions holds 1 clips, but the video holds 2"):
        Clips(torch.zeros(2, 8, 3, 16, 16), ["one"])
    with pytest.raises(ValueError, match="5 axes"):
        Clips(torch.zeros(8, 3, 16, 16))
    with pytest.raises(ValueError, match="no masks"):
        _ = Clips(torch.zeros(2, 8, 3, 16, 16)).first_masks
