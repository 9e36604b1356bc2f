"""The one attention operation, against torch's own and against a softmax written out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wanlab.core import Identity, Mean, Replace, Zero, trace
from wanlab.nn.attention import Attention, attend, attention_pattern


def by_torch(module: Attention, x: Tensor, context: Tensor, hidden: Tensor | None = None) -> Tensor:
    """The same weights in torch.nn.functional.multi_head_attention_forward; x b n c, hidden b j is True for a pad."""
    out, _ = F.multi_head_attention_forward(
        x.transpose(0, 1), context.transpose(0, 1), context.transpose(0, 1), x.shape[-1], module.heads,
        None, torch.cat([module.q.bias, module.k.bias, module.v.bias]), None, None, False, 0.0,
        module.o.weight, module.o.bias, training=False, key_padding_mask=hidden, need_weights=False,
        use_separate_proj_weight=True, q_proj_weight=module.q.weight, k_proj_weight=module.k.weight,
        v_proj_weight=module.v.weight,
    )  # fmt: skip
    return out.transpose(0, 1)


def test_it_is_multi_head_attention() -> None:
    module, x, context = Attention(16, 4), torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    assert torch.allclose(module(x), by_torch(module, x, x), atol=1e-6)
    assert torch.allclose(module(x, context), by_torch(module, x, context), atol=1e-6)


def test_a_hidden_key_might_as_well_not_be_there() -> None:
    module, x, context = Attention(16, 4), torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    hidden = torch.zeros(2, 7, dtype=torch.bool)
    hidden[:, 5:] = True
    bias = torch.zeros(2, 7).masked_fill(hidden, float("-inf"))[:, None, None]
    assert torch.allclose(module(x, context, bias), by_torch(module, x, context, hidden), atol=1e-6)
    assert torch.allclose(module(x, context, bias), module(x, context[:, :5]), atol=1e-6)


def test_leading_axes_are_rows() -> None:
    module, x = Attention(8, 2, "b f n c"), torch.randn(2, 3, 5, 8)
    rows = torch.stack([torch.stack([module(frame[None])[0] for frame in row]) for row in x])
    assert torch.allclose(module(x), rows, atol=1e-6)


def test_the_fused_kernel_is_softmax_written_out() -> None:
    q, k, v = torch.randn(2, 3, 4, 5, 8), torch.randn(2, 3, 4, 6, 8), torch.randn(2, 3, 4, 6, 3)
    bias = torch.randn(3, 1, 5, 6)
    logits = 0.7 * torch.einsum("bfknd,bfkjd->bfknj", q, k) + bias
    weights = logits.exp() / logits.exp().sum(-1, keepdim=True)
    assert torch.allclose(attend(q, k, v, bias, 0.7), torch.einsum("bfknj,bfkjd->bfknd", weights, v), atol=1e-5)
    assert torch.allclose(attention_pattern(q, k, bias, 0.7), weights, atol=1e-6)
    assert torch.allclose(attention_pattern(q, k).sum(-1), torch.ones(2, 3, 4, 5), atol=1e-6)


def test_reading_the_pattern_changes_nothing_and_agrees_with_the_output() -> None:
    module, x = Attention(16, 4, "b f n c"), torch.randn(2, 3, 5, 16)
    plain = module(x)
    with trace(module, capture=["pattern", "v", "z"]) as t:
        assert torch.equal(module(x), plain)
    pattern, v, z = (t.record[name].tensor for name in ("pattern", "v", "z"))
    assert t.record["pattern"].axes == ("b", "f", "k", "n", "j")
    assert torch.allclose(pattern @ v, z, atol=1e-6)
    with trace(module, edits=[Identity("pattern")]):
        assert torch.equal(module(x), plain)


def test_an_edited_pattern_is_what_is_attended_by() -> None:
    module, x = Attention(16, 4), torch.randn(2, 5, 16)
    with trace(module, edits=[Replace("pattern", lambda p: torch.full_like(p, 1 / p.shape[-1]))], capture=["z", "v"]) as t:
        module(x)
    expected = t.record["v"].tensor.mean(-2, keepdim=True).expand(-1, -1, 5, -1)
    assert torch.allclose(t.record["z"].tensor, expected, atol=1e-6)


def test_cutting_a_head_takes_away_its_columns_of_the_output_matrix() -> None:
    module, x = Attention(16, 4), torch.randn(2, 5, 16)
    with trace(module, capture=["z"]) as t:
        whole = module(x)
    with trace(module, edits=[Zero("z", heads=[2])]):
        cut = module(x)
    share = t.record["z"].tensor[:, 2] @ module.o.weight[:, 8:12].T
    assert torch.allclose(whole - cut, share, atol=1e-5)


@pytest.mark.parametrize("name", ["q", "k", "v", "pattern", "z", "out"])
def test_every_site_says_its_axes_and_can_be_changed(name: str) -> None:
    module, x = Attention(8, 2, "b n f c", context_width=6), torch.randn(2, 3, 4, 8)
    context = torch.randn(2, 3, 7, 6)
    plain = module(x, context)
    with trace(module, edits=[Mean(name)], capture=[name]) as t:
        assert not torch.allclose(module(x, context), plain, atol=1e-5)
    sizes = dict(zip(t.record[name].axes, t.record[name].tensor.shape, strict=True))
    known = {"b": 2, "n": 3, "f": 4, "j": 7, "k": 2, "d": 4, "c": 8}
    assert all(known[axis] == size for axis, size in sizes.items())


def test_a_width_that_does_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="width 10 does not divide into 4 heads"):
        Attention(10, 4)
