"""The Triton kernel against the dense map, where there is a GPU; elsewhere it says why it cannot run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

from wanlab.nn.flush import attend_mass, why_not


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("n", "sizes", "d"), [
    (33, [57], 16), (200, [64, 64, 64], 64), (129, [1, 130, 63, 7], 40), (300, [100, 100, 100], 128), (5, [3, 300], 96)])
def test_output_log_sum_exp_and_mass_are_those_of_the_dense_map(dtype: torch.dtype, n: int, sizes: list[int], d: int) -> None:
    if reason := why_not():
        pytest.skip(reason)
    q, k, v = (torch.randn(2, 3, m, d, device="cuda").to(dtype) for m in (n, sum(sizes), sum(sizes)))
    out, lse, mass = attend_mass(q, k, v, sizes)
    logits = d**-0.5 * q.double() @ k.double().transpose(-1, -2)
    p = logits.softmax(-1)
    groups = torch.arange(len(sizes), device="cuda").repeat_interleave(torch.tensor(sizes, device="cuda"))
    exact = dtype == torch.float32
    assert torch.allclose(lse.double(), logits.logsumexp(-1), atol=2e-6 if exact else 1e-4)
    assert torch.allclose(mass.double(), p @ F.one_hot(groups, len(sizes)).double(), atol=2e-6 if exact else 1e-4)
    within = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 2e-2}[dtype]
    assert torch.allclose(out.double(), p @ v.double(), atol=within)


@pytest.mark.gpu
def test_a_group_without_mass_has_none() -> None:
    if reason := why_not():
        pytest.skip(reason)
    q = torch.ones(1, 1, 4, 16, device="cuda", dtype=torch.bfloat16)
    k = torch.cat([100 * q, -100 * q], -2)
    _, _, mass = attend_mass(q, k, k, [4, 4])
    assert mass[..., 0].eq(1).all() and mass[..., 1].eq(0).all()


def test_sizes_must_add_up() -> None:
    q = torch.zeros(1, 1, 4, 16)
    with pytest.raises(ValueError, match=r"groups of \[1, 2\] are 3 keys, there are 4"):
        attend_mass(q, q, q, [1, 2])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so() -> None:
    q = torch.zeros(1, 1, 4, 16)
    with pytest.raises(RuntimeError, match="cannot run here: no CUDA device on this machine"):
        attend_mass(q, q, q, [1, 3])


INTERPRETED = """
import torch
from wanlab.nn.flush import attend_mass
torch.manual_seed(0)
for n, sizes, d in ((33, [57], 16), (70, [1, 130, 63, 7], 40), (5, [3, 200], 96)):
    q, k, v = (torch.randn(1, 2, m, d) for m in (n, sum(sizes), sum(sizes)))
    out, lse, mass = attend_mass(q, k, v, sizes)
    logits = d**-0.5 * q.double() @ k.double().transpose(-1, -2)
    p = logits.softmax(-1)
    assert torch.allclose(lse.double(), logits.logsumexp(-1), atol=2e-6), (lse - logits.logsumexp(-1)).abs().max()
    assert torch.allclose(mass.double(), torch.stack([part.sum(-1) for part in p.split(sizes, -1)], -1), atol=2e-6)
    assert torch.allclose(out.double(), p @ v.double(), atol=2e-6)

from wanlab.nn import reads
from wanlab.nn.backends import attend_lse, choose
assert choose(q).name == "cpu flash" and choose(q, grouped=True).name == "triton"
assert torch.allclose(attend_lse(q, k, v, backend="triton")[0], p.float() @ v, atol=2e-6)
passes, attend = [], reads.attend_lse
reads.attend_lse = lambda *given: passes.append(1) or attend(*given)
groups = torch.tensor([0] * 3 + [2] * 200)                      # no key is in group 1
for order, calls in ((torch.arange(203), 0), (torch.randperm(203), 4)):
    call = reads.Call(q, k[..., order, :], v[..., order, :])
    mass = call.split(groups[order], 3)
    parts = [p[..., :3].sum(-1), torch.zeros(1, 2, 5), p[..., 3:].sum(-1)]
    assert torch.allclose(mass.double(), torch.stack(parts, -1).double(), atol=2e-6) and len(passes) == calls
    assert torch.allclose(call.out, p.float() @ v, atol=2e-6) and torch.allclose(call.lse, logits.logsumexp(-1).float(), atol=2e-6)
assert choose(q, torch.zeros(1, 2, 5, 203), grouped=True).name == "cpu flash"
print("as the dense map")
"""


def test_the_kernel_interpreted_step_by_step_is_the_dense_map_and_is_chosen_where_keys_are_split() -> None:
    pytest.importorskip("triton")
    run = subprocess.run([sys.executable, "-c", INTERPRETED], env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True,
                         text=True)
    assert run.returncode == 0 and "as the dense map" in run.stdout, run.stderr
