"""The one attention operation of the house: every stage attends through `Attending`, so all have the same sites and reads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wanlab.core import Grid, Hookable
from wanlab.core.gradient import rejoin
from wanlab.nn.offer import READS, Pattern, Shape, offered
from wanlab.nn.reads import Call


class Attending(Hookable):
    """A module that attends. Its sites: `q k v`, the map `pattern`, the result per head `z`; and what is read of the map beside
    the fused kernel, computed while somebody listens, for the part that is listened to:

    lse         log-sum-exp of the logits; with q, k and bias it gives any entry of the map later on (its scale is a coordinate)
    bias        what is added to the logits; size 1 along heads, queries and keys if it is the same for all of them
    entropy     of each query's map, in nats
    received    what each key gets of all queries together
    mass        of each query on each part of the keys (axis p, label `part`): every frame of a video, the text, its padding, the
                image, the rest; what the parts are, the run announces (`clock.announce`: grid_of, text_sites)
    moments     of each query, over the keys on a grid (axis u, label `moment`): their mass, and the sums over them, weighted by the
                map, of how far they stand from it: dt (lengths of the video), dy, dx (widths of the frame), dt^2, dy^2 + dx^2
    """

    READS = READS
    DERIVED = READS

    @staticmethod
    def sites_on(lead: str, query: str) -> dict[str, str]:
        """The sites of attention with these axes before the heads, and these of the queries."""
        head, row = f"{lead} k", f"{lead} k {query}"
        return {"q": f"{row} d", "k": f"{head} j d", "v": f"{head} j d", "pattern": f"{row} j", "lse": row, "bias": f"{row} j",
                "entropy": row, "received": f"{head} j", "mass": f"{row} p", "moments": f"{row} u", "z": f"{row} d"}

    def attended(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None,
                 sides: tuple[int, ...] | None = None, keys: Grid | None = None, z: Tensor | None = None) -> Tensor:
        """softmax(scale q k^T + bias) v from the fused kernel (… k n d), with `pattern` and the reads passed through their sites.

        bias broadcasts to (… k n j); -inf hides a key. sides: the sizes of the axes on which the sites show the queries (of
        n tokens in a row, where the sites say f h w). keys: how the keys stand, where the module knows it itself. z: the
        result, where the module has a cheaper way to it; bias is then read, not computed with.
        """
        if not self.listening("pattern", *self.READS):
            return attend(q, k, v, bias, scale) if z is None else z
        lead = q.shape[:-3]
        fold = [x.reshape(-1, *x.shape[-3:]) for x in (q, k, v)]
        call = Call(fold[0], fold[1], fold[2], folded(bias, lead), scale)
        axes = self.SITES["q"].split()
        queries = tuple(axes[axes.index("k") + 1: -1])
        shape = Shape(tuple(lead), tuple(q.shape[-2:-1]) if sides is None else sides, queries, keys)
        pattern = Pattern(call, shape, lambda: attention_pattern(q, k, bias, scale))
        edited = self.site("pattern", pattern) if self.listening("pattern") else pattern
        if edited is not pattern:
            dense = edited.reshape(*q.shape[:-1], k.shape[-2])
            changed = (dense != attention_pattern(q, k, bias, scale)).any(-1, keepdim=True)
            call.dense = dense.detach().reshape(-1, *dense.shape[-3:]) if changed.any() else None
        for name in self.READS:
            if self.listening(name):
                self.site(name, offered(name, call, shape))
        if z is None:
            differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v))
            z = attend(q, k, v, bias, scale) if differentiated else call.out.reshape(*q.shape[:-1], v.shape[-1])
        if edited is pattern:
            return z
        return rejoin(z, dense @ v, changed)            # rows of the map that nobody changed keep the kernel's z


class Attention(Attending):
    """Multi-head attention of `width` channels (Vaswani et al. 2017), over any leading axes.

    Queries (… n c) read from `context` (… j c), or from themselves. `axes` names the query's axes in the order in which they
    come, channels last: "b f n c" attends over tokens within a frame, "b n f c" over frames at one token. The key axis is
    always `j`. The output comes from the fused kernel.
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
        self.SITES = {**self.sites_on(" ".join(lead), query), "out": axes}

    def forward(self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
        """Attend; `bias` is added to the logits and broadcasts to (… k n j); -inf hides a key."""
        context = x if context is None else context
        q = self.site("q", self._split(self.q(x)))                     # … k n d
        k = self.site("k", self._split(self.k(context)))               # … k j d
        v = self.site("v", self._split(self.v(context)))               # … k j d
        z = self.site("z", self.attended(q, k, v, bias, self.scale))
        return self.site("out", self.o(rearrange(z, "... k n d -> ... n (k d)")))

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "... n (k d) -> ... k n d", k=self.heads)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """softmax(scale * q k^T + bias) v from the fused kernel; any leading axes, which are folded into one for its sake."""
    lead = q.shape[:-3]
    bias = folded(bias, lead)
    if bias is not None:
        bias = bias.expand(-1, q.shape[-3], q.shape[-2], k.shape[-2])
    fold = [t.reshape(-1, *t.shape[-3:]) for t in (q, k, v)]
    return F.scaled_dot_product_attention(*fold, attn_mask=bias, scale=scale).reshape(*lead, *q.shape[-3:-1], v.shape[-1])


def folded(bias: Tensor | None, lead: torch.Size) -> Tensor | None:
    """A bias that broadcasts to (… k n j) with its leading axes as one, b k n j; sizes of 1 elsewhere stay."""
    if bias is None:
        return None
    bias = bias.reshape(*[1] * (len(lead) + 3 - bias.ndim), *bias.shape)
    return bias.expand(*lead, -1, -1, -1).reshape(-1, *bias.shape[-3:])


def attention_pattern(q: Tensor, k: Tensor, bias: Tensor | None = None, scale: float | None = None) -> Tensor:
    """The dense map softmax(scale * q k^T + bias), (… k n j), rows sum to 1."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    logits = scale * q @ k.transpose(-1, -2)
    return torch.softmax(logits if bias is None else logits + bias, -1)
