"""Optical flow on known shifts; warping error with flow from truth, from a reference and from the clip itself."""

from __future__ import annotations

import pytest
import torch

from metrics import estimate_flow, warp_error
from metrics.flow import farneback, occluded, warp
from metrics.warp import FlowField, truth_field
from tests.metrics.scenes import sliding, texture


@pytest.mark.parametrize(("dx", "dy"), [(3, 0), (0, -3), (2, 2)])
def test_farneback_finds_a_known_shift_and_repeats_it_bit_for_bit(dx: int, dy: int) -> None:
    first = texture()[None]
    second = first.roll((dy, dx), (2, 3))
    flow = farneback(first, second)
    inside = flow[0, :, 16:-16, 16:-16]
    error = (inside - torch.tensor([float(dx), float(dy)])[:, None, None]).square().sum(0).sqrt()
    assert float(error.mean()) < 0.05
    assert torch.equal(flow, farneback(first, second))


def test_warp_brings_the_second_frame_back() -> None:
    first = texture()[None]
    flow = torch.zeros(1, 2, 96, 96)
    flow[:, 0] = 3
    back = warp(first.roll(3, 3), flow)
    torch.testing.assert_close(back[..., :-4], first[..., :-4], rtol=0, atol=1e-5)


def test_true_flow_explains_a_slide_and_no_flow_does_not() -> None:
    video = sliding()
    pixels = torch.zeros(1, 3, 2, 96, 96)
    pixels[:, :, 0] = 2
    seen = torch.ones(1, 3, 96, 96)
    seen[..., -2:] = 0
    assert float(warp_error(video, FlowField(pixels, seen))) < 1e-10
    still = FlowField(torch.zeros_like(pixels), torch.ones_like(seen))
    assert float(warp_error(video, still)) > 1e-3
    assert float(warp_error(video, truth_field(pixels / 96, seen == 0))) < 1e-10


def test_estimated_flow_nearly_explains_a_slide_and_jitter_shows_against_the_reference() -> None:
    video = sliding()
    field = estimate_flow(video)
    clean = float(warp_error(video, field))
    assert clean < 1e-3
    jitter = torch.stack([frame.roll(shift, -1) for frame, shift in zip(video[0], (0, 2, -1, 1), strict=True)])[None]
    assert float(warp_error(jitter, field)) > 4 * clean
    assert float(warp_error(jitter, estimate_flow(jitter))) < 0.2 * float(warp_error(jitter, field))  # explained away


def test_a_half_uncovered_frame_counts_only_where_it_is_seen() -> None:
    forward, backward = torch.zeros(1, 2, 32, 32), torch.zeros(1, 2, 32, 32)
    forward[:, 0, :, :16], backward[:, 0, :, :16] = 4, 0
    hidden = occluded(forward, backward)
    assert hidden[0, 16, 4] and not hidden[0, 16, 24]
    video = torch.zeros(1, 2, 3, 32, 32)
    video[:, 1, :, :, :16] = 1
    field = FlowField(torch.zeros(1, 1, 2, 32, 32), (torch.arange(32) >= 16).float().expand(1, 1, 32, 32))
    assert float(warp_error(video, field)) == 0
    nowhere = FlowField(field.flow, torch.zeros(1, 1, 32, 32))
    assert float(warp_error(video, nowhere)) == pytest.approx(0.5)  # Lai et al.: the plain mean


def test_a_field_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="b f-1 2 h w"):
        warp_error(torch.zeros(1, 4, 3, 96, 96), estimate_flow(sliding()[..., :48]))


def test_a_reference_in_the_place_of_its_flow_is_told() -> None:
    import metrics

    with pytest.raises(TypeError, match=r"warp_error takes a flow, not Tensor: give estimate_flow\(reference\)"):
        metrics.warp_error(torch.rand(1, 2, 3, 16, 16), torch.rand(1, 2, 3, 16, 16))
