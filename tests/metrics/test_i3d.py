"""The I3D against layers of torch put together by hand: paddings, blocks, normalisation, the whole chain; and its file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from metrics import i3d
from metrics.weights import WeightsError


def settled(network: nn.Module, seed: int = 0) -> nn.Module:
    """Evaluation mode, with statistics of the normalisations that are not the initial ones."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.copy_(0.1 * torch.randn(module.num_features, generator=generator))
            module.running_var.copy_(0.2 + torch.rand(module.num_features, generator=generator))
            module.bias.data.copy_(0.3 * torch.randn(module.num_features, generator=generator))
    return network.eval()


def margins(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's documentation of SAME: the output has ceil(size / stride) places, the odd pixel lies behind."""
    total = max(kernel - (stride if size % stride == 0 else size % stride), 0)
    return total // 2, total - total // 2


def same(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...], fill: float = 0.0) -> Tensor:
    around: list[int] = []
    for axis in (4, 3, 2):
        around += margins(x.shape[axis], kernel[axis - 2], stride[axis - 2])
    return functional.pad(x, around, value=fill)


def unit(x: Tensor, state: dict[str, Tensor], name: str, stride: int = 1, epsilon: float = 1e-5) -> Tensor:
    kernel = state[f"{name}.conv3d.weight"]
    x = functional.conv3d(same(x, tuple(kernel.shape[2:]), (stride,) * 3), kernel, stride=stride)
    at = [state[f"{name}.bn.{part}"][:, None, None, None] for part in ("running_mean", "running_var", "weight", "bias")]
    return ((x - at[0]) / (at[1] + epsilon).sqrt() * at[2] + at[3]).relu()


def pool(x: Tensor, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> Tensor:
    return functional.max_pool3d(same(x, kernel, stride, -math.inf), kernel, stride)  # TensorFlow's never sees its margins


def inception(x: Tensor, state: dict[str, Tensor], name: str, epsilon: float) -> Tensor:
    def run(part: str, x: Tensor) -> Tensor:
        return unit(x, state, f"{name}.{part}", epsilon=epsilon)

    pooled = pool(x, (3, 3, 3), (1, 1, 1))
    return torch.cat([run("b0", x), run("b1b", run("b1a", x)), run("b2b", run("b2a", x)), run("b3b", pooled)], 1)


def by_hand(x: Tensor, state: dict[str, Tensor], epsilon: float) -> Tensor:
    """The chain of Carreira & Zisserman's figure 3, written down once more."""
    x = pool(unit(x, state, "Conv3d_1a_7x7", 2, epsilon), (1, 3, 3), (1, 2, 2))
    x = unit(unit(x, state, "Conv3d_2b_1x1", epsilon=epsilon), state, "Conv3d_2c_3x3", epsilon=epsilon)
    x = pool(x, (1, 3, 3), (1, 2, 2))
    for group, kernel, stride in (("3bc", (3, 3, 3), (2, 2, 2)), ("4bcdef", (2, 2, 2), (2, 2, 2)), ("5bc", None, None)):
        for letter in group[1:]:
            x = inception(x, state, f"Mixed_{group[0]}{letter}", epsilon)
        x = pool(x, kernel, stride) if kernel else x
    x = functional.avg_pool3d(x, (2, 7, 7), 1)
    return functional.conv3d(x, state["logits.conv3d.weight"], state["logits.conv3d.bias"]).flatten(3).squeeze(3).mean(2)


@pytest.fixture(scope="module")
def network() -> i3d.I3D:
    torch.manual_seed(1)
    return settled(i3d.I3D())


@torch.no_grad()
@pytest.mark.parametrize("size", range(7, 17))
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (2, 2), (1, 1)])
def test_padding_is_tensorflow_s(size: int, kernel: int, stride: int) -> None:
    x = torch.rand(1, 2, size, size + 1, size + 2)
    padded = i3d.pad_same(x, (kernel,) * 3, (stride,) * 3)
    assert torch.equal(padded, same(x, (kernel,) * 3, (stride,) * 3))
    for before, after in zip(x.shape[2:], padded.shape[2:], strict=True):
        assert (after - kernel) // stride + 1 == math.ceil(before / stride)
    assert torch.equal(i3d.pool_same(x, (kernel,) * 3, (stride,) * 3), pool(x, (kernel,) * 3, (stride,) * 3))


@torch.no_grad()
@pytest.mark.parametrize(("size", "stride"), [(7, 2), (3, 1), (1, 1)])
def test_a_unit_is_convolution_normalisation_relu(size: int, stride: int) -> None:
    one = settled(i3d.Unit(3, 5, size, 1e-3, stride))
    x = torch.randn(2, 3, 9, 12, 11)
    state = {f"u.{key}": value for key, value in one.state_dict().items()}
    torch.testing.assert_close(one(x), unit(x, state, "u", stride, 1e-3), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(one(x), unit(x, state, "u", stride, 0.3), rtol=1e-3)


@torch.no_grad()
def test_an_inception_block_is_its_four_branches(network: i3d.I3D) -> None:
    block = network.get_submodule("Mixed_3b")
    x = torch.randn(1, 192, 3, 7, 6).relu()
    state = {f"m.{key}": value for key, value in block.state_dict().items()}
    torch.testing.assert_close(block(x), inception(x, state, "m", 1e-5), rtol=1e-5, atol=1e-5)
    assert block(x).shape[1] == 64 + 128 + 32 + 32


@torch.no_grad()
def test_the_whole_network_is_the_chain_by_hand(network: i3d.I3D) -> None:
    x = 2 * torch.rand(1, 3, 10, 224, 224) - 1
    expected = by_hand(x, network.state_dict(), 1e-5)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-5)
    tensorflow = i3d.I3D(i3d.TENSORFLOW)
    tensorflow.load_state_dict(network.state_dict())
    assert not torch.allclose(tensorflow.eval()(x), expected, rtol=1e-4)  # epsilon is part of the protocol


@torch.no_grad()
def test_shapes_and_the_least_number_of_frames(network: i3d.I3D) -> None:
    assert len(network.state_dict()) == 344 and sum(p.numel() for p in network.parameters()) == 12_697_264
    for frames in (9, 17):  # one logit, and the mean of two
        assert network(torch.zeros(1, 3, frames, 224, 224)).shape == (1, 400)
    with pytest.raises(ValueError, match="at least 9 frames, got 8"):
        network(torch.zeros(1, 3, 8, 224, 224))
    with pytest.raises(ValueError, match="frames of 224 x 224"):
        network(torch.zeros(1, 3, 9, 112, 224))


def test_the_published_file_loads_strictly_with_and_without_counters(network: i3d.I3D, tmp_path: Path) -> None:
    whole = {key: value.clone() for key, value in network.state_dict().items()}
    converted = {key: value for key, value in whole.items() if not key.endswith("num_batches_tracked")}
    assert len(converted) == 287  # what the conversion from TensorFlow writes
    for name, state in (("whole.pt", whole), ("converted.pt", converted)):
        torch.save(state, tmp_path / name)
        loaded = i3d.load(tmp_path / name, i3d.TENSORFLOW)
        assert torch.equal(loaded.state_dict()["Mixed_5c.b2b.conv3d.weight"], whole["Mixed_5c.b2b.conv3d.weight"])
        assert loaded.Conv3d_1a_7x7.bn.eps == 1e-3 and not loaded.training
    torch.save({**converted, "Mixed_5c.b3a.weight": torch.zeros(1)}, tmp_path / "more.pt")
    torch.save(dict(list(converted.items())[5:]), tmp_path / "fewer.pt")
    torch.save({**converted, "logits.conv3d.bias": torch.zeros(600)}, tmp_path / "kinetics600.pt")
    for name, match in (("more.pt", "Mixed_5c.b3a"), ("fewer.pt", "Conv3d_1a_7x7"), ("kinetics600.pt", "600")):
        with pytest.raises(WeightsError, match=match):
            i3d.load(tmp_path / name)
