"""Attention between frames under factors, against the dense map."""

from __future__ import annotations

import pytest
import torch

from wanlab.nn.across import across_frames, dense_bias
from wanlab.nn.attention import attend, attention_pattern


def tensors(grid: tuple[int, int, int], d: int = 16, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    n = grid[0] * grid[1] * grid[2]
    return [torch.randn(2, 3, n, d, generator=generator).to(dtype) for _ in range(3)]


@pytest.mark.parametrize("grid", [(4, 2, 3), (1, 3, 3), (5, 1, 1)])
def test_any_factors_equal_the_dense_map(grid: tuple[int, int, int]) -> None:
    q, k, v = tensors(grid)
    factors = torch.rand(2, 3, grid[0], grid[0], generator=torch.Generator().manual_seed(1))
    factors[factors < 0.4] = 0
    factors.diagonal(dim1=-2, dim2=-1).add_(0.1)
    exact = attention_pattern(q.double(), k.double(), dense_bias(factors, grid).double()) @ v.double()
    assert (across_frames(q, k, v, factors) - exact).abs().max() <= 1e-6


def test_a_block_diagonal_is_each_frame_alone() -> None:
    q, k, v = tensors((3, 2, 2))
    cut = across_frames(q, k, v, torch.eye(3).expand(2, 3, 3, 3))
    alone = torch.cat([attend(*(x[:, :, 4 * f: 4 * f + 4] for x in (q, k, v))) for f in range(3)], 2)
    assert torch.allclose(cut, alone, atol=1e-6)


def test_factors_count_against_each_other_alone() -> None:
    q, k, v = tensors((3, 2, 2))
    assert torch.allclose(across_frames(q, k, v, torch.full((2, 3, 3, 3), 0.5)), attend(q, k, v), atol=1e-6)


def test_heads_and_rows_are_cut_apart_one_by_one_and_nothing_to_see_gives_nothing() -> None:
    q, k, v = tensors((3, 2, 2))
    factors = torch.ones(2, 3, 3, 3)
    factors[0, 1] = torch.eye(3)
    factors[1, 2, 0] = 0
    out, plain = across_frames(q, k, v, factors), attend(q, k, v)
    assert torch.allclose(out[0, [0, 2]], plain[0, [0, 2]], atol=1e-6) and not torch.allclose(out[0, 1], plain[0, 1], atol=1e-3)
    assert not out[1, 2, :4].any() and torch.isfinite(out).all()


def test_half_precision_stays_close() -> None:
    q, k, v = tensors((3, 2, 2), dtype=torch.bfloat16)
    factors = torch.ones(2, 3, 3, 3).tril()
    exact = attention_pattern(q.double(), k.double(), dense_bias(factors, (3, 2, 2)).double()) @ v.double()
    assert (across_frames(q, k, v, factors).double() - exact).abs().max() < 2e-2
