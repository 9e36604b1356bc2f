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
        assert torch.allclose(stage(*inputs), inputs[0] + stage.texture(*inputs), atol=1e-6)


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
