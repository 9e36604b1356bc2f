"""Blocks of a video diffusion transformer: all tokens of all frames in one row, attending to each other (Wan2.1).

Tokens are b n c with n = f h w in that order; their sites show them on the grid, b f h w c.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wanlab.core import Grid as Tokens
from wanlab.core import Hookable
from wanlab.core.gradient import rejoin
from wanlab.nn.across import across_frames, dense_bias
from wanlab.nn.attention import Attending
from wanlab.nn.norm import LayerNorm, RMSNorm
from wanlab.nn.rotary import turn

TOKENS = "b f h w c"
Grid = tuple[int, int, int]


class OnGrid(Hookable):
    """A module whose row of tokens is seen on its grid of frames, height and width."""

    def see(self, name: str, x: Tensor, grid: Grid, identity: Tensor | Callable[[], Tensor] | None = None) -> Tensor:
        """Pass tokens (… n c) through a site that shows them as … f h w c."""
        if self._taps is None:
            return x
        stands = None if identity is None else lambda: (identity() if callable(identity) else identity).unflatten(-2, grid)
        shown = x.unflatten(-2, grid)
        left = self.site(name, shown, identity=stands)
        return x if left is shown else left.flatten(-4, -2)


class _Attention(OnGrid, Attending):
    """What self- and cross-attention share: projections whose queries and keys are normalised over all heads at once."""

    def __init__(self, width: int, heads: int, eps: float) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = (RMSNorm(width, eps=eps) for _ in range(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)                         # b k n d

    def _out(self, z: Tensor, grid: Grid) -> Tensor:
        return self.see("out", self.o(z.transpose(1, 2).flatten(2)), grid)


class SelfAttention(_Attention):
    """Every token attends to every token of every frame; positions enter by rotation alone.

    Sites: those of attention (`q` and `k` rotated), and `frames`: how much each query frame attends to each key frame, as a factor
    on its weights before they are normalised. It is 1 everywhere; a block-diagonal one cuts the frames apart.
    """

    SITES = {**Attending.sites_on("b", "f h w"), "frames": "b k f j", "out": TOKENS}

    def forward(self, x: Tensor, phases: Tensor, grid: Grid) -> Tensor:
        q = self.see("q", turn(self._split(self.norm_q(self.q(x))), phases), grid)
        k = self.site("k", turn(self._split(self.norm_k(self.k(x))), phases))
        v = self.site("v", self._split(self.v(x)))
        factors = self._frames(q, grid[0])
        if factors is None:
            z = self.attended(q, k, v, sides=grid, keys=Tokens(*grid))
        else:
            bias = dense_bias(factors, grid) if self.listening("pattern", *self.READS) else None
            z = self.attended(q, k, v, bias, sides=grid, keys=Tokens(*grid), z=across_frames(q, k, v, factors))
        return self._out(self.see("z", z, grid, identity=lambda: torch.zeros_like(z)), grid)

    def _frames(self, q: Tensor, frames: int) -> Tensor | None:
        """The factors (b k f j) that somebody put at `frames`; None where they are all 1."""
        if not self.listening("frames"):
            return None
        ones = torch.ones(*q.shape[:2], frames, frames, device=q.device)
        factors = self.site("frames", ones)
        if factors is ones:
            return None
        if (factors < 0).any():
            raise ValueError("attention between frames has a factor below 0; 0 cuts two frames apart, 1 leaves them as they are")
        return None if torch.equal(factors, ones) else factors


class ImageAttention(OnGrid, Attending):
    """The queries of the tokens attend to the image tokens alone, by a softmax apart from the text's. Sites: those of attention.

    Its weights stand where the published code has them, beside those of the text.
    """

    SITES = Attending.sites_on("b", "f h w")

    def forward(self, q: Tensor, k: Tensor, v: Tensor, grid: Grid) -> Tensor:
        """z b k n d of queries b k n d, keys and values b k j d."""
        q, k, v = self.see("q", q, grid), self.site("k", k), self.site("v", v)
        return self.see("z", self.attended(q, k, v, sides=grid), grid, identity=lambda: torch.zeros_like(q))


class CrossAttention(_Attention):
    """Every token attends to the text and, apart from it, to the image tokens; the two results are added before `o`.

    Sites: those of attention to the text; of attention to the image under `img` (its `q` are the text's, edited ones too); `out`.
    """

    SITES = {**Attending.sites_on("b", "f h w"), "out": TOKENS}

    def __init__(self, width: int, heads: int, eps: float, image: bool) -> None:
        super().__init__(width, heads, eps)
        self.image = image
        if image:
            self.k_img, self.v_img, self.norm_k_img = nn.Linear(width, width), nn.Linear(width, width), RMSNorm(width, eps=eps)
            self.img = ImageAttention()

    def forward(self, x: Tensor, text: Tensor, image: Tensor | None, grid: Grid) -> Tensor:
        q = self.see("q", self._split(self.norm_q(self.q(x))), grid)
        k = self.site("k", self._split(self.norm_k(self.k(text))))
        v = self.site("v", self._split(self.v(text)))
        z = self.see("z", self.attended(q, k, v, sides=grid), grid, identity=lambda: torch.zeros_like(q))
        if image is not None:
            z = z + self.img(q, self._split(self.norm_k_img(self.k_img(image))), self._split(self.v_img(image)), grid)
        return self._out(z, grid)


class Block(OnGrid):
    """Self-attention, cross-attention, feed-forward, each added to the stream; time modulates the first and the last.

    Sites: what time says (shift, scale and gate of the attention, then of the feed-forward: one for all tokens, or one each), the
    stream before, between and after the parts, and what each adds to it (bypass: nothing; `resid_post`: the block as a whole).
    """

    TIME = ("attn_shift", "attn_scale", "attn_gate", "mlp_shift", "mlp_scale", "mlp_gate")
    SITES = {**dict.fromkeys(TIME, "b n c"), **dict.fromkeys((
        "resid_pre", "attn_in", "attn_out", "resid_attn", "cross_in", "cross_out", "resid_mid", "mlp_in", "mlp_pre", "mlp_post",
        "mlp_out", "resid_post"), TOKENS)}

    def __init__(self, width: int, heads: int, hidden: int, eps: float, image: bool) -> None:
        super().__init__()
        self.norm1, self.norm2 = (LayerNorm(width, affine=False, eps=eps) for _ in range(2))
        self.norm3 = LayerNorm(width, eps=eps)
        self.self_attn, self.cross_attn = SelfAttention(width, heads, eps), CrossAttention(width, heads, eps, image)
        self.ffn = nn.Sequential(nn.Linear(width, hidden), nn.GELU("tanh"), nn.Linear(hidden, width))
        self.modulation = nn.Parameter(torch.randn(1, 6, width) / width**0.5)

    def forward(self, x: Tensor, time: Tensor, text: Tensor, image: Tensor | None, phases: Tensor, grid: Grid) -> Tensor:
        """x b n c, time b (1 | n) 6 c in float32, text and image b j c."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (
            self.site(name, part) for name, part in zip(self.TIME, (self.modulation + time).unbind(-2)))
        x = self.see("resid_pre", x, grid)
        y = self.see("attn_in", torch.addcmul(shift1, self.norm1(x.float()), 1 + scale1).to(x.dtype), grid)
        mid = self.see("resid_attn", self._add(x, "attn_out", self.self_attn(y, phases, grid), gate1, grid), grid)
        y = self.see("cross_in", self.norm3(mid.float()).to(x.dtype), grid)
        y = self.cross_attn(y, text, image, grid)
        mid = self.see("resid_mid", mid + self.see("cross_out", y, grid, identity=lambda: torch.zeros_like(y)), grid)
        y = self.see("mlp_in", torch.addcmul(shift2, self.norm2(mid.float()), 1 + scale2).to(x.dtype), grid)
        y = self.see("mlp_pre", self.ffn[0](y), grid)
        y = self.ffn[2](self.see("mlp_post", self.ffn[1](y), grid))
        return self.see("resid_post", self._add(mid, "mlp_out", y, gate2, grid), grid, identity=x)

    def _add(self, x: Tensor, name: str, y: Tensor, gate: Tensor, grid: Grid) -> Tensor:
        """x + gate * y in float32, as the published code has it; the product stands alone only for those who listen."""
        out = torch.addcmul(x.float(), y.float(), gate).to(x.dtype)
        if not self.listening(name):
            return out
        added = y.float() * gate
        edited = self.see(name, added, grid, identity=lambda: torch.zeros_like(added))
        return out if edited is added else rejoin(out, (x.float() + edited).to(x.dtype), edited != added)
