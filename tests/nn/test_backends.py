"""Every kernel of the table, as far as this machine has it: output and log-sum-exp against the dense map in float64."""

from __future__ import annotations

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from wanlab.nn.backends import BACKENDS, attend_lse, available, choose, same_bytes

CUDA = pytest.param("cuda", marks=pytest.mark.gpu)
PRECISION = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def tensors(n: int, j: int, d: int, device: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.randn(2, 3, m, d).to(device, dtype) for m in (n, j, j))
    return q, k, v


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("dtype", list(PRECISION))
@pytest.mark.parametrize("name", list(BACKENDS))
@pytest.mark.parametrize(("n", "j", "d", "biased"), [(33, 57, 16, False), (17, 130, 40, True), (64, 64, 128, False)])
def test_a_kernel_gives_the_output_and_the_natural_log_sum_exp(
        name: str, device: str, dtype: torch.dtype, n: int, j: int, d: int, biased: bool) -> None:
    q, k, v = tensors(n, j, d, device, dtype)
    bias = torch.randn(1, 3, 1, j).to(device, dtype) if biased else None
    why_not = BACKENDS[name].refuses(q, bias)
    if why_not:
        with pytest.raises(ValueError, match="cannot run here"):
            attend_lse(q, k, v, bias, backend=name)
        pytest.skip(f"{name}: {why_not}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")     # it is, on purpose
        out, lse = attend_lse(q, k, v, bias, backend=name)
    logits = d**-0.5 * q.double() @ k.double().transpose(-1, -2)
    logits = logits if bias is None else logits + bias.double()
    assert out.shape == q.shape and out.dtype == dtype and lse.dtype == torch.float32
    assert torch.allclose(lse.double(), logits.logsumexp(-1), atol=PRECISION[dtype])
    assert torch.allclose(out.double(), logits.softmax(-1) @ v.double(), atol=2 * PRECISION[dtype])


def test_the_first_that_fits_is_chosen() -> None:
    q = torch.randn(1, 1, 4, 16)
    assert choose(q).name == "cpu flash" and choose(q, torch.zeros(1, 1, 4, 4)).name == "cpu flash"
    assert choose(q.to("meta")).name == "blockwise"
    told = available()
    assert told["cpu flash"] is None and told["cuda flash"] == "it runs on cuda, not on cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_every_kernel_says_so() -> None:
    assert set(available("cuda").values()) == {"no CUDA device on this machine"}


@pytest.mark.gpu
def test_on_a_device_a_bias_and_float32_go_to_the_memory_efficient_kernel() -> None:
    q = torch.randn(1, 1, 4, 64, device="cuda")
    assert choose(q).name == "memory-efficient" and choose(q.bfloat16()).name == "cuda flash"
    assert choose(q.bfloat16(), torch.zeros(1, 1, 4, 4, device="cuda")).name == "memory-efficient"


@pytest.mark.parametrize("biased", [False, True])
def test_one_call_stands_for_both_only_where_the_bytes_are_the_same(biased: bool) -> None:
    q, k, v = tensors(65, 130, 64, "cpu", torch.float32)
    bias = torch.randn(2, 3, 65, 130) if biased else None
    assert same_bytes(q, k, v, bias, None) is True
    assert torch.equal(attend_lse(q, k, v, bias)[0], F.scaled_dot_product_attention(q, k, v, bias))
    assert same_bytes(q, k, v[..., :8], bias, None) is False
