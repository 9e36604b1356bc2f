"""Optical flow on known shifts: classical flows to the reference's figures, RAFT through its loading path."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from metrics import dynamic_degree, estimate_flow, flow_error, warp_error, weights
from metrics.flow import Flow, dis, farneback
from metrics.raft import LAYOUTS, raft, random_raft
from metrics.warp import FlowField
from tests.metrics.scenes import sliding, still, texture


def end_point_error(flow: Tensor, dx: float, dy: float) -> float:
    inside = flow[0, :, 16:-16, 16:-16]
    return float((inside - torch.tensor([dx, dy])[:, None, None]).square().sum(0).sqrt().mean())


@pytest.mark.parametrize(("flow", "most"), [(farneback, 0.01), (dis, 0.05)], ids=["farneback", "dis"])
def test_a_shift_of_three_pixels_is_found_and_repeated_bit_for_bit(flow: Flow, most: float) -> None:
    first = texture(256)[None]
    second = first.roll(3, 3)
    found = flow(first, second)
    assert end_point_error(found, 3, 0) < most
    assert torch.equal(found, flow(first, second))


def test_dis_refuses_frames_that_its_pyramid_cannot_take() -> None:
    with pytest.raises(ValueError, match="24 x 24"):
        dis(torch.rand(1, 3, 16, 40), torch.rand(1, 3, 16, 40))
    assert dis(torch.rand(2, 3, 24, 25), torch.rand(2, 3, 24, 25)).shape == (2, 2, 24, 25)


@pytest.mark.parametrize("flow", [farneback, dis], ids=["farneback", "dis"])
def test_warp_error_of_a_slide_is_small_under_its_own_flow_and_large_without(flow: Flow) -> None:
    video = sliding(3, 3, size=128)
    found = estimate_flow(video, flow)
    none = FlowField(torch.zeros_like(found.flow), torch.ones_like(found.seen))
    assert float(warp_error(video, found)) < 0.1 * float(warp_error(video, none))


def test_flow_error_of_true_motion_is_small_and_of_a_still_is_the_motion() -> None:
    video = sliding(3, 4, size=128)
    true = torch.zeros(1, 3, 2, 128, 128)
    true[:, :, 0] = 3
    field = FlowField(true, torch.ones(1, 3, 128, 128))
    field.seen[..., -8:] = 0
    assert float(flow_error(video, field)) * 128 < 0.1
    assert float(flow_error(still(video), field)) * 128 == pytest.approx(3, rel=1e-3)
    assert float(flow_error(video, field, FlowField(true, field.seen))) == 0
    assert flow_error(video, FlowField(true, torch.zeros_like(field.seen))).isnan().all()
    with pytest.raises(ValueError, match="true flow must be"):
        flow_error(video[:, :3], field)


def test_raft_loads_a_file_strictly_and_names_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.models import optical_flow

    network = optical_flow.raft_small(weights=None).eval()
    path = tmp_path / "mine.pth"
    torch.save(network.state_dict(), path)
    judge = raft("raft_small", path, updates=2)
    assert judge.name.startswith("custom-raft_small:") and judge.name.endswith("|2it")
    first, second = torch.rand(2, 2, 3, 128, 136)
    with torch.no_grad():
        expected = network(2 * first - 1, 2 * second - 1, num_flow_updates=2)[-1]
    torch.testing.assert_close(judge(first, second), expected, rtol=1e-4, atol=1e-4)
    odd = judge(first[..., :131], second[..., :131])  # 131 is padded to 136 and cut back
    assert odd.shape == (2, 2, 128, 131)
    state = network.state_dict()
    torch.save(dict(list(state.items())[1:]), path)
    with pytest.raises(weights.WeightsError, match="Missing key"):
        raft("raft_small", path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(weights.WeightsError, match="raft_small_C_T_V2-01064c6d"):
        raft("raft_small")
    with pytest.raises(ValueError, match="raft_things"):
        raft("flownet")
    assert set(LAYOUTS) <= set(weights.PUBLISHED)


def test_a_random_raft_says_so_and_can_stand_for_any_flow() -> None:
    judge = random_raft()
    assert judge.name.startswith("random-raft_small")
    video = sliding(2, 3, size=128)
    assert estimate_flow(video, judge).flow.shape == (1, 2, 2, 128, 128)
    assert dynamic_degree(video, judge).shape == (1,)
    with pytest.raises(ValueError, match="128 x 128"):
        judge(video[:, 0, :, :96], video[:, 1, :, :96])
