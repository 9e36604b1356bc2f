"""The one attention operation of the house: every stage attends through `Attention`, so every stage has the same sites."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.core.gradient import rejoin


class Attention(Hookable):
    """Multi-head attention of `width` channels (Vaswani et al. 2017), over any leading axes.

    Queries (… n c) read from `context` (… j c), or from themselves. `axes` names the query's axes in the order in which they
    come, channels last: "b f n c" attends over tokens within a frame, "b n f c" over frames at one token. The key axis is
    always `j`. The output comes from the fused kernel; the dense `pattern` is computed beside it only while somebody listens.
    """

    def __init__(self, width: int, heads: int, axes: str = "b n c", context_width: int | None = None,
                 bias: bool = True, scale: float | None = None, inner: int | None = None) -> None:
        super().__init__()
        inner = inner or width
        if inner % heads:
            raise ValueError(f"width {inner} does not divide into {heads} heads")
        self.heads, self.scale = heads, scale
        self.q = nn.Linear(width, inner, bias=bias)
        self.k = nn.Linear(context_width or width, inner, bias=bias)
        self.v = nn.Linear(context_width or width, inner, bias=bias)
        self.o = nn.Linear(inner, width, bias=bias)
        *lead, query, _ = axes.split()
        b = " ".join(lead)
        self.SITES = {
            "q": f"{b} k {query} d", "k": f"{b} k j d", "v": f"{b} k j d",
            "pattern": f"{b} k {query} j", "z": f"{b} k {query} d", "out": axes,
        }

    def forward(self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Attend; `bias` is added to the logits and broadcasts to (… k n j); -inf hides a key."""
        context = x if context is None else context
        q = self.site("q", self._split(self.q(x)))                     # … k n d
        k = self.site("k", self._split(self.k(context)))               # … k j d
        v = self.site("v", self._split(self.v(context)))               # … k j d
        z = attend(q, k, v, bias, self.scale)
        if self.listening("pattern"):
            pattern = attention_pattern(q, k, bias, self.scale)
            edited = self.site("pattern", pattern)
            if edited is not pattern:                                   # rows of the map that nobody changed keep the kernel's z
                z = rejoin(z, edited @ v, (edited != pattern).any(-1, keepdim=True))
        z = self.site("z", z)
        return self.site("out", self.o(rearrange(z, "... k n d -> ... n (k d)")))

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "... n (k d) -> ... k n d", k=self.heads)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(scale * q k^T + bias) v from the fused kernel; any leading axes, which are folded into one for its sake."""
    lead = q.shape[:-3]
    if bias is not None:
        bias = bias.expand(*lead, q.shape[-3], q.shape[-2], k.shape[-2]).flatten(0, len(lead) - 1)
    fold = [t.reshape(-1, *t.shape[-3:]) for t in (q, k, v)]
    return F.scaled_dot_product_attention(*fold, attn_mask=bias, scale=scale).reshape(*lead, *q.shape[-3:-1], v.shape[-1])


def attention_pattern(q: Tensor, k: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """The dense map softmax(scale * q k^T + bias), (… k n j), rows sum to 1."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    logits = scale * q @ k.transpose(-1, -2)
    return torch.softmax(logits if bias is None else logits + bias, -1)
