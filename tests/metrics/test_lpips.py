"""Our adapter is the lpips package, bit for bit; a trunk is loaded whole or not at all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from metrics import lpips as ours
from metrics import lpips_distance


def videos(size: int = 64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 3, 3, size, size, generator=generator)
    return x, (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def test_shared_features_give_the_package_s_number() -> None:
    model = ours.blank().eval()
    x, y = videos()
    expected = model(2 * x.flatten(0, 1) - 1, 2 * y.flatten(0, 1) - 1).view(2, 3).mean(1)
    torch.testing.assert_close(lpips_distance(x, y, model), expected, rtol=2e-6, atol=1e-7)
    assert lpips_distance(x, x, model).tolist() == [0, 0]


def test_the_trunk_has_fifty_tensors_and_loads_strictly() -> None:
    state = ours.blank().net.state_dict()
    assert len(state) == 50
    built = ours.build({key: torch.full_like(value, 0.01) for key, value in state.items()})
    assert all(bool((value == 0.01).all()) for value in built.net.state_dict().values())
    assert not any(parameter.requires_grad for parameter in built.parameters())
    missing = dict(list(state.items())[1:])
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.build(missing)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        ours.build({**state, "slice9.weight": torch.zeros(1)})


def test_small_frames_are_refused() -> None:
    x, y = videos(24)
    with pytest.raises(ValueError, match="32 x 32"):
        lpips_distance(x, y, ours.blank())
