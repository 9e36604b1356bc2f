"""Attention between the frames of a video under factors: exact, frame by frame of the keys, in memory linear in the tokens.

    z = sum_g w_fg exp(lse_g) z_g / sum_g w_fg exp(lse_g)

z_g and lse_g are the fused kernel's result and log-sum-exp over the keys of frame g alone, w_fg the factor between the query's
frame f and g; pairs whose factor is 0 are never computed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wanlab.nn.backends import attend_lse


def across_frames(q: Tensor, k: Tensor, v: Tensor, factors: Tensor) -> Tensor:
    """Attention (b k n d) of tokens that stand frame by frame, under factors (b k f j) of at least 0.

    A query whose frame may attend to nothing gets zeros.
    """
    frames = factors.shape[-1]
    q, k, v = (x.unflatten(2, (frames, -1)) for x in (q, k, v))                          # b k f t d
    total = torch.full(q.shape[:-1], -torch.inf, device=q.device)                        # b k f t: log of the denominator
    out = torch.zeros(q.shape, device=q.device)
    for g in range(frames):
        reads = (factors[..., g] > 0).any((0, 1)).nonzero().flatten()                    # query frames that see frame g
        if not len(reads):
            continue
        z, lse = attend_lse(q[:, :, reads].flatten(2, 3), k[:, :, g], v[:, :, g])
        lse = lse.unflatten(2, (len(reads), -1)) + factors[:, :, reads, g].float().log()[..., None]
        before = total[:, :, reads]
        after = torch.logaddexp(before, lse)
        share = torch.where(after == -torch.inf, 0.0, torch.exp(lse - after))[..., None]
        out[:, :, reads] = torch.lerp(out[:, :, reads], z.unflatten(2, (len(reads), -1)).float(), share)
        total[:, :, reads] = after
    return out.flatten(2, 3).to(q.dtype)


def dense_bias(factors: Tensor, grid: Sequence[int]) -> Tensor:
    """The same factors as a bias on the logits of every pair of tokens (b k n j)."""
    tokens = grid[1] * grid[2]
    return factors.float().log().repeat_interleave(tokens, 2).repeat_interleave(tokens, 3)
