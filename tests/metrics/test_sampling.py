"""Clips depend on the video alone: its name, its length, a seed; and short videos are never filled up."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metrics.sampling import Sampling, TooShort


def test_the_conventions() -> None:
    assert Sampling(16).indices(50) == list(range(16))
    assert Sampling(16, stride=8).indices(128) == list(range(0, 121, 8))  # fvd2048_128f_subsample8f
    assert Sampling(4, offset="middle").indices(10) == [3, 4, 5, 6]
    assert Sampling(4, offset="uniform").indices(10) == [0, 3, 6, 9]
    assert Sampling(1, offset="uniform").indices(10) == [0]


def test_a_seeded_offset_depends_on_seed_and_name_alone() -> None:
    names = [f"{i}.mp4" for i in range(200)]
    rule, other = Sampling(16, offset="seeded"), Sampling(16, offset="seeded", seed=1)
    starts = [rule.indices(50, name)[0] for name in names]
    assert starts == [rule.indices(50, name)[0] for name in reversed(names)][::-1]
    assert starts != [other.indices(50, name)[0] for name in names]
    assert min(starts) == 0 and max(starts) == 34 and len(set(starts)) > 30
    assert starts[:3] == [12, 10, 1]  # on every machine and in every version


@settings(max_examples=40)
@given(
    frames=st.integers(1, 20), stride=st.integers(1, 6), more=st.integers(0, 40), name=st.text(max_size=8),
    offset=st.sampled_from(["first", "middle", "seeded", "uniform"]),
)  # fmt: skip
def test_indices_are_rising_inside_and_evenly_spaced(frames: int, stride: int, more: int, name: str, offset) -> None:
    rule = Sampling(frames, stride, offset)
    indices = rule.indices(rule.span + more, name)
    assert len(indices) == frames and indices[0] >= 0 and indices[-1] < rule.span + more
    gaps = {b - a for a, b in pairwise(indices)}
    assert all(gap >= 1 for gap in gaps) and (offset == "uniform" or gaps <= {stride})
    with pytest.raises(TooShort):
        rule.indices(rule.span - 1, name)


def test_cut_takes_frames_and_says_what_is_missing() -> None:
    video = torch.arange(20.0)[:, None, None, None].expand(20, 3, 2, 2)
    assert Sampling(4, 3, "middle").cut(video)[:, 0, 0, 0].tolist() == [5, 8, 11, 14]
    assert Sampling(20).cut(video) is video
    with pytest.raises(TooShort, match=r"too short: 20 frames, a clip of 16, every 2\. spans 31"):
        Sampling(16, 2).cut(video)
    with pytest.raises(ValueError, match="at least 1 frame"):
        Sampling(0)
