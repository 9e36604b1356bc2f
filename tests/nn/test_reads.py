"""What is read of attention beside the kernel, against the dense map written out in float64, at random shapes."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wanlab.nn.reads import Call, products, run_alike

SHAPES = 50
EXACT = 1e-6        # of a value of about 1; of larger ones relative
SHARP = 5e-7        # the same for sharp maps, times the largest logit: float32 knows a logit no better


@dataclass
class Case:
    """One call with its dense map in float64."""

    call: Call
    map: Tensor         # b k n j
    values: Tensor
    bias: Tensor | None
    groups: Tensor
    count: int


def case(seed: int, sharp: bool = False) -> Case:
    """Heads, odd lengths, unequal groups, head widths 16 to 128, hidden keys and biases, padding, three precisions."""
    draw = random.Random(seed)
    torch.manual_seed(seed)
    b, h, d = draw.choice([1, 2, 3]), draw.choice([1, 2, 5]), draw.choice([16, 24, 40, 64, 96, 128])
    n, j = draw.randint(1, 70), draw.randint(2, 150)
    kind = draw.choice([torch.float32, torch.float32, torch.bfloat16, torch.float16])
    q, k, v = (torch.randn(b, h, m, d).to(kind) for m in (n, j, j))
    if draw.random() < 0.3:
        start = draw.randint(0, j - 1)
        k[..., start:, :] = k[..., start: start + 1, :]
    bias, which = None, draw.random()
    if which < 0.25:
        bias = torch.zeros(b, 1, 1, j)
        bias[..., draw.randint(1, j):] = draw.choice([-1e9, float("-inf")])
    elif which < 0.4:
        bias = torch.randn(1, h, n, j)
    elif which < 0.5:
        bias = torch.randn(b, h, 1, j)
    scale = 0.4 if sharp else draw.choice([None, 1.0 / d])
    logits = (d**-0.5 if scale is None else scale) * q.double() @ k.double().transpose(-1, -2)
    logits = logits if bias is None else logits + bias.double()
    count = draw.randint(1, j)
    return Case(Call(q, k, v, bias, scale), logits.softmax(-1), v.double(), bias, torch.randint(0, count, (j,)), count)


def close(found: Tensor, wanted: Tensor, within: float = EXACT) -> bool:
    """Whether all values agree as exactly as is claimed."""
    assert found.shape == wanted.shape and found.dtype == torch.float32
    return bool(((found - wanted).abs() <= within * wanted.abs().clamp(min=1)).all())


@pytest.mark.parametrize("seed", range(SHAPES))
def test_every_read_is_that_of_the_dense_map(seed: int) -> None:
    one = case(seed)
    p, columns = one.map, F.one_hot(one.groups, one.count).double()
    assert close(one.call.mass(one.groups, one.count), p @ columns)
    assert close(one.call._by_group(one.groups, one.count), p @ columns)
    assert close(one.call.entropy, -torch.xlogy(p, p).sum(-1))
    assert close(one.call.received, p.sum(-2))
    assert close(one.call.entries(), p)
    weights = torch.rand(*p.shape[:-1], 3)
    assert close(one.call.flow(weights / weights.sum(-2, keepdim=True)),
                 p.transpose(-1, -2) @ (weights / weights.sum(-2, keepdim=True)).double())
    draw = random.Random(seed)
    b, h, rows, keys = (sorted(draw.sample(range(size), min(size, 3))) for size in p.shape)
    some = p[b][:, h][:, :, rows]
    assert close(one.call.entries(rows, keys, h, b), some[..., keys]) and close(one.call.entries(rows, None, h, b), some)


@pytest.mark.parametrize("seed", range(0, SHAPES, 5))
def test_of_sharp_maps_too_as_far_as_float32_knows_the_logits(seed: int) -> None:
    one = case(seed, sharp=True)
    q, k, _ = one.call.given
    p, within = one.map, SHARP * float((0.4 * q.double() @ k.double().transpose(-1, -2)).abs().max().clamp(min=2))
    assert close(one.call.mass(one.groups, one.count), p @ F.one_hot(one.groups, one.count).double(), within)
    assert close(one.call.entropy, -torch.xlogy(p, p).sum(-1), within) and close(one.call.received, p.sum(-2), within)


@pytest.mark.parametrize("seed", range(0, SHAPES, 3))
def test_values_of_any_width_are_weighed(seed: int) -> None:
    one = case(seed)
    for width in (1, 7, 130, 300):
        values = torch.rand(one.map.shape[-1], width)
        assert close(one.call.weigh(values), one.map @ values.double())


@pytest.mark.parametrize("seed", range(SHAPES))
def test_split_keys_give_the_mass_and_merge_to_the_output(seed: int) -> None:
    one = case(seed)
    mass = one.call.split(one.groups, one.count)
    precision = {torch.float32: 1.5e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[one.call.given[0].dtype]
    wanted = one.map @ F.one_hot(one.groups, one.count).double()
    # in half precision the stock kernel computes its logits in half precision too: the mass is that of its own map
    assert ((mass - wanted).abs() <= precision).all()
    assert ((one.call.out.double() - one.map @ one.values).abs() <= 4 * precision * one.values.abs().max()).all()
    assert torch.allclose(mass.sum(-1), torch.ones(mass.shape[:-1]), atol=1e-5)


@pytest.mark.parametrize("seed", range(0, SHAPES, 2))
def test_no_read_changes_the_output_by_a_bit(seed: int) -> None:
    one, (q, k, v) = case(seed), case(seed).call.given
    if one.bias is not None and q.dtype != torch.float32:
        one.bias, one.call.bias = one.bias.to(q.dtype), one.bias.to(q.dtype)
    bias = None if one.bias is None else one.bias.expand(*q.shape[:-1], k.shape[-2])
    plain = F.scaled_dot_product_attention(q, k, v, bias, scale=one.call.scale)
    one.call.lse, one.call.entropy, one.call.mass(one.groups, one.count)
    assert torch.equal(one.call.out, plain)


def test_a_map_from_kept_queries_keys_and_log_sum_exp_is_the_map() -> None:
    one = case(3)
    q, k, v = one.call.given
    again = Call(q, k, v, one.bias, one.call.scale, lse=one.call.lse)
    assert close(again.entries([0], [1, 0]), one.map[..., [0], :][..., [1, 0]])


def test_blocks_of_any_size_give_the_same() -> None:
    from wanlab.nn.backends import blockwise

    q, k, v = (torch.randn(2, 3, n, 24) for n in (130, 77, 77))
    whole, lse = blockwise(q, k, v, None, 0.2, block=1000)
    for block in (1, 7, 64, 129, 130):
        out, part = blockwise(q, k, v, None, 0.2, block=block)
        assert torch.allclose(out, whole, atol=1e-6) and torch.allclose(part, lse, atol=1e-6)


@pytest.mark.parametrize(("rows", "keys"), [(3, 23), (23, 3)])
@pytest.mark.parametrize("part", [1, 5, 23])
def test_half_precision_is_widened_in_parts_of_any_size(
    part: int, rows: int, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wanlab.nn.reads.PART", part)
    q, k = torch.randn(2, 3, rows, 16).bfloat16(), torch.randn(2, 3, keys, 16).bfloat16()
    assert close(products(q, k), q.double() @ k.double().transpose(-1, -2))


def test_entropy_is_never_negative_and_knows_the_bias() -> None:
    q, k = torch.randn(1, 1, 9, 16), torch.randn(1, 1, 5, 16)
    sharp = Call(q.bfloat16(), (200 * k).bfloat16(), k.bfloat16())
    assert (sharp.entropy >= 0).all() and sharp.entropy.max() < 1
    bias = torch.tensor([3.0, 0, 0, 0, -2])[None, None, None]
    p = (0.25 * q.double() @ k.double().transpose(-1, -2) + bias).softmax(-1)
    assert close(Call(q, k, k, bias).entropy, -(p * p.log()).sum(-1))


def test_a_run_of_identical_keys_is_found_and_nothing_else() -> None:
    k = torch.randn(2, 3, 9, 4)
    assert run_alike(k, None) is None
    k[..., 4:8, :] = k[..., 4:5, :]
    assert run_alike(k, None) == slice(4, 8)
    bias = torch.zeros(1, 1, 1, 9)
    bias[..., 7:] = -1
    assert run_alike(k, bias) == slice(4, 7)
    k[1, 0, 4, 0] += 1
    assert run_alike(k, None) == slice(5, 8)
    assert run_alike(k, torch.randn(1, 1, 2, 9)) is None


def test_keys_that_cannot_be_split_are_refused() -> None:
    q = torch.randn(1, 1, 4, 8)
    with pytest.raises(ValueError, match="every key is in a group"):
        Call(q, q, q).split(torch.tensor([0, 0, 1, -1]), 2)
