"""Detail stage: two branches that can be removed cleanly."""

from __future__ import annotations

import pytest
import torch

from wanlab.core import Bypass, Zero, trace
from wanlab.stages.detail import Config, Detail


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.rand(2, 4, 3, 16, 12) * 2 - 1, torch.rand(2, 4, 3, 16, 12) * 2 - 1, torch.rand(2, 4, 1, 16, 12)


@pytest.fixture
def stage() -> Detail:
    module = Detail(Config(width=8, blocks=1, gan_width=8, gan_blocks=1)).eval()
    for branch in (module.sharpen, module.texture):
        torch.nn.init.normal_(branch.outlet.weight, std=0.05)
    return module


def test_untrained_it_changes_nothing(inputs) -> None:
    assert torch.equal(Detail(Config())(*inputs), inputs[0])


def test_removing_the_head_leaves_the_content_branch(stage, inputs) -> None:
    with trace(stage, edits=[Zero("gan")]):
        without = stage(*inputs)
    assert torch.allclose(without, inputs[0] + stage.sharpen(*inputs), atol=1e-6)
    with trace(stage, edits=[Zero("content")]):
        record = stage(*inputs)
    with trace(stage, capture=["noise"]) as seen:
        stage(*inputs)
    assert torch.allclose(record, inputs[0] + stage.texture(*inputs, seen.record["noise"].tensor), atol=1e-6)


def test_texture_of_a_smooth_video_is_no_grid(stage) -> None:
    grey, nothing = torch.zeros(1, 2, 3, 96, 96), torch.zeros(1, 2, 1, 96, 96)
    inner = (..., slice(16, 80), slice(16, 80))  # away from the padding
    texture = stage.texture(grey, grey, nothing, stage._noise(grey))[inner]
    without = stage.texture(grey, grey, nothing, torch.zeros_like(nothing))[inner]
    assert torch.allclose(without[..., 2:, 2:], without[..., :-2, :-2], atol=1e-5)  # all it can do: a grid
    assert (texture[..., 2:, 2:] - texture[..., :-2, :-2]).abs().mean() > 0.1 * texture.std()
    assert torch.equal(texture[:, 0], texture[:, 1])  # it does not flicker


def test_removing_the_stage_leaves_its_input(stage, inputs) -> None:
    with trace(stage, edits=[Bypass("out")]):
        assert torch.equal(stage(*inputs), inputs[0])
    assert not torch.equal(stage(*inputs), inputs[0])


def test_where_nothing_is_valid_the_reference_is_not_seen(stage, inputs) -> None:
    x, reference, valid = inputs
    nothing = torch.zeros_like(valid)
    assert torch.equal(stage(x, reference, nothing), stage(x, -reference, nothing))


def test_sizes_that_do_not_fit_are_told(stage, inputs) -> None:
    with pytest.raises(ValueError, match="reference for a 16x12 video"):
        stage(inputs[0], inputs[1][:, :2], inputs[2])
    with pytest.raises(ValueError, match="even sides"):
        stage(*(x[..., :-1] for x in inputs))


def test_config_travels_as_plain_data(stage) -> None:
    again = Detail.from_config(stage.to_config())
    again.load_state_dict(stage.state_dict())
    assert again.config == stage.config
