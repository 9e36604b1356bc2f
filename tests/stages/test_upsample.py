"""One x2 level of the cascade: what it is at the start, what can be cut, what it refuses."""

from __future__ import annotations

import pytest
import torch

from wanlab.core import Bypass, Zero, sites_of, trace
from wanlab.nn.residual import enlarge
from wanlab.stages.resize import ResizeConv, Trilinear
from wanlab.stages.upsample import LEVELS, Config, Upsample


@pytest.fixture
def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    video, reference = torch.rand(2, 4, 3, 8, 12) * 2 - 1, torch.rand(2, 4, 3, 16, 24) * 2 - 1
    return video, reference, torch.rand(2, 4, 1, 16, 24)


KINDS = [Upsample, ResizeConv, Trilinear]


def level(kind: type[Upsample] = Upsample, **changes) -> Upsample:
    """A level whose outlet is not zero."""
    module = kind(Config(width=8, blocks=2, **changes))
    torch.nn.init.normal_(module.outlet.weight, std=0.05)
    return module.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_without_image_and_training_it_is_bicubic(inputs, kind) -> None:
    video, reference, valid = inputs
    module = kind(LEVELS[0])
    assert torch.equal(module(video, torch.zeros_like(reference), torch.zeros_like(valid)), enlarge(video))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_valid_is_never_copied(inputs, kind) -> None:
    video, reference, _ = inputs
    module = level(kind)
    with trace(module, capture=["trust"]) as seen:
        module(video, reference, torch.zeros(2, 4, 1, 16, 24))
    assert seen.record["trust"].to_numpy().max() == 0


@pytest.mark.parametrize("kind", KINDS)
def test_cutting_the_bicubic_skip_takes_away_exactly_it(inputs, kind) -> None:
    module = level(kind)
    whole = module(*inputs)
    with trace(module, edits=[Zero("residual.skip")]):
        cut = module(*inputs)
    assert torch.allclose(whole - cut, enlarge(inputs[0]), atol=1e-5)
    with trace(module, edits=[Bypass("out")]):
        assert torch.equal(module(*inputs), enlarge(inputs[0]))


def test_built_without_the_skip_it_does_not_see_it(inputs) -> None:
    video, reference, valid = inputs
    module = Upsample(Config(width=8, link=0.0))
    assert torch.allclose(module(video, reference, valid), 0.5 * valid * reference)


def test_every_link_has_a_name() -> None:
    names = set(sites_of(torch.nn.ModuleDict({"upsample": torch.nn.ModuleList([level(), level()])})).names)
    assert {
        "upsample.0.residual.skip",
        "upsample.1.residual.branch",
        "upsample.0.blocks.1.skip",
        "upsample.1.blocks.0.temporal.out",
        "upsample.0.trust",
        "upsample.1.reference",
        "upsample.0.out",
    } <= names


def test_of_even_features_only_a_shuffle_makes_a_pattern() -> None:
    """Within the reach of the border all see it; farther in, a shuffle alone repeats a pattern of two pixels."""
    video, nothing = torch.ones(1, 1, 3, 24, 24), torch.zeros(1, 1, 3, 48, 48)
    rough = {}
    for kind in KINDS:
        with trace(module := level(kind), capture=["paint"]) as t:
            module(video, nothing, nothing[:, :, :1])
        rough[kind] = float(t.record["paint"].tensor[..., 16:-16, 16:-16].diff(dim=-1).abs().max())
    assert rough[Upsample] > 1e-3 and rough[ResizeConv] < 1e-6 and rough[Trilinear] < 1e-6


def test_samples_do_not_see_each_other(inputs) -> None:
    module = level()
    assert torch.allclose(module(*inputs)[1:], module(*(x[1:] for x in inputs)), atol=1e-5)


def test_config_travels_as_plain_data() -> None:
    module = level(link=0.5)
    again = Upsample.from_config(module.to_config())
    again.load_state_dict(module.state_dict())
    assert again.config == module.config


@pytest.mark.parametrize(
    ("which", "message"), [(1, r"reference for a 8x12 video must be \(2, 4, 3, 16, 24\)"), (2, "the valid for a")]
)
def test_sizes_that_do_not_fit_are_told(inputs, which: int, message: str) -> None:
    wrong = [x[..., :-1] if i == which else x for i, x in enumerate(inputs)]
    with pytest.raises(ValueError, match=message):
        level()(*wrong)


def test_a_level_of_no_width_is_refused() -> None:
    with pytest.raises(ValueError, match="width 0"):
        Config(width=0)
