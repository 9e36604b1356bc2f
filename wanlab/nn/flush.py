"""A Triton kernel of attention that writes the mass of every query on every group of keys on the way, for CUDA.

One pass (Dao 2023, FlashAttention-2, with one addition): keys are read group by group, and at each border the sum of a row since
the last one is kept together with the maximum that it was taken against. What is written per group is log(sum) + maximum, the
log-sum-exp of the group; exp of it minus that of the row is the mass. Groups follow each other without gaps. It is in the table
of `wanlab.nn.backends`, and chosen where keys are split (`split_keys`).

Not run on a GPU by its authors: where there is none, the tests have Triton's interpreter run it on small shapes, against the
dense map.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence

import torch
from torch import Tensor

ROWS, KEYS = 128, 64        # of a block


def why_not(device: str = "cuda") -> str | None:
    """Why the kernel cannot run here; None: it can."""
    stepped = os.environ.get("TRITON_INTERPRET") == "1"         # in Python, on any device: to be tested, not to be used
    if not (stepped or torch.cuda.is_available()):
        return "no CUDA device on this machine"
    if not (stepped or device.startswith("cuda")):
        return f"it runs on cuda, not on {device}"
    return None if importlib.util.find_spec("triton") else "the package triton is not installed"


def attend_mass(q: Tensor, k: Tensor, v: Tensor, sizes: Sequence[int], scale: float | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Output (b k n d), log-sum-exp (b k n) and mass (b k n g) of attention over groups of keys of these sizes, in order.

    q b k n d, k and v b k j d on a CUDA device, float16 or bfloat16 (float32 is computed with TF32 off). ValueError where the
    sizes do not add up to the keys, RuntimeError where the kernel cannot run.
    """
    if sum(sizes) != k.shape[-2] or min(sizes) < 1:
        raise ValueError(f"groups of {list(sizes)} are {sum(sizes)} keys, there are {k.shape[-2]}")
    reason = why_not(str(q.device))
    if reason:
        raise RuntimeError(f"the Triton kernel cannot run here: {reason}")
    import triton

    from wanlab.nn.flush_kernel import kernel

    b, heads, n, d = q.shape
    q, k, v = (x.reshape(b * heads, -1, d).contiguous() for x in (q, k, v))
    out = torch.empty_like(q)
    row = torch.empty(b * heads, n, device=q.device, dtype=torch.float32)
    groups = torch.empty(b * heads, n, len(sizes), device=q.device, dtype=torch.float32)
    borders = torch.tensor([0, *sizes], device=q.device, dtype=torch.int32).cumsum(0, dtype=torch.int32)
    scale = d**-0.5 if scale is None else scale
    kernel[(triton.cdiv(n, ROWS), b * heads)](
        q, k, v, out, row, groups, borders, n, k.shape[1], scale, GROUPS=len(sizes), WIDTH=d,
        PADDED=triton.next_power_of_2(max(d, 16)), ROWS=ROWS, KEYS=KEYS, PRECISE=q.dtype == torch.float32,
        num_warps=8 if d > 64 else 4, num_stages=2)
    row = row.reshape(b, heads, n)
    mass = (groups.reshape(b, heads, n, -1) - row[..., None]).exp()
    return out.reshape(b, heads, n, d), row, mass
