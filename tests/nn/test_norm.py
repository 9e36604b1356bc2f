"""Normalisation: torch's own numbers, with a scale that can be seen and changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wanlab.core import Hookable, Identity, Replace, Scale, Zero, trace
from wanlab.nn.norm import GroupNorm, LayerNorm, RMSNorm


def lively(module: Hookable) -> Hookable:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def cases() -> list[tuple[Hookable, Tensor]]:
    return [(lively(LayerNorm(8, "b f n c")), 3 * torch.randn(2, 4, 5, 8) + 1), (LayerNorm(8, affine=False), torch.randn(2, 5, 8)),
            (lively(GroupNorm(2, 8)), 3 * torch.randn(2, 4, 8, 3, 5) + 1), (lively(RMSNorm(8)), torch.randn(2, 5, 8))]


def by_torch(module: Hookable, x: Tensor) -> Tensor:
    """The same from torch's functions, frame by frame."""
    if isinstance(module, LayerNorm):
        return nn.functional.layer_norm(x, (8,), module.weight, module.bias)
    if isinstance(module, GroupNorm):
        return torch.stack([nn.functional.group_norm(frame, 2, module.weight, module.bias) for frame in x.unbind(1)], 1)
    return nn.functional.rms_norm(x, (8,), module.weight, module.eps)


def test_they_are_torchs_and_keep_its_names() -> None:
    for module, x in cases():
        assert torch.allclose(module(x), by_torch(module, x), atol=1e-6)
    assert list(LayerNorm(8).state_dict()) == list(nn.LayerNorm(8).state_dict())
    assert list(GroupNorm(2, 8).state_dict()) == list(nn.GroupNorm(2, 8).state_dict())


@pytest.mark.parametrize("case", range(4))
def test_the_scale_is_what_the_centred_input_is_multiplied_by(case: int) -> None:
    module, x = cases()[case]
    plain = module(x)
    with trace(module, Identity("scale"), capture="scale") as t:
        assert torch.equal(module(x), plain)
    seen = t.record["scale"]
    if isinstance(module, GroupNorm):
        spread = x.unflatten(2, (2, 4)).var((3, 4, 5), correction=0)
    else:
        spread = x.square().mean(-1) if isinstance(module, RMSNorm) else x.var(-1, correction=0)
    assert torch.allclose(seen.tensor, (spread + module.eps).rsqrt(), rtol=1e-5)
    bias = getattr(module, "bias", None)
    bias = 0 if bias is None else bias[:, None, None] if isinstance(module, GroupNorm) else bias
    with trace(module, Scale("scale", 2)):
        assert torch.allclose(module(x), 2 * (plain - bias) + bias, atol=1e-5)
    with trace(module, Zero("scale", rows=1)):
        edited = module(x)
    assert torch.equal(edited[0], plain[0]) and torch.allclose(edited[1], torch.zeros_like(x[1]) + bias, atol=1e-6)


def test_a_scale_held_fixed_makes_the_layer_linear() -> None:
    module, x = cases()[0]
    with trace(module, capture="scale") as t:
        plain = module(x)
    held = t.record["scale"].tensor
    with trace(module, Replace("scale", lambda _: held.clone())):
        assert torch.allclose(module(2 * x) - module.bias, 2 * (plain - module.bias), atol=1e-5)
