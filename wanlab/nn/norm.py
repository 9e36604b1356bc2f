"""Normalisation whose scale is a site.

    out = (x - mean) * scale * weight + bias        scale = 1 / sqrt(variance + eps)

The output comes from the fused kernel. `scale` is computed beside it only while somebody listens, and what an edit
leaves as it was keeps the kernel's bytes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.core.gradient import rejoin


class LayerNorm(Hookable, nn.LayerNorm):
    """torch's LayerNorm over the channels, the last of `axes`. Site: `scale`, one number for each token."""

    def __init__(self, width: int, axes: str = "b n c", affine: bool = True, eps: float = 1e-5) -> None:
        super().__init__(width, eps=eps, elementwise_affine=affine)
        self.SITES = {"scale": " ".join(axes.split()[:-1])}

    def forward(self, x: Tensor) -> Tensor:
        out = super().forward(x)
        if not self.listening("scale"):
            return out
        variance, mean = torch.var_mean(x.float(), -1, correction=0)
        scale = torch.rsqrt(variance + self.eps)
        edited = self.site("scale", scale)
        if edited is scale:
            return out
        again = (x - mean[..., None]) * edited[..., None]
        again = again if self.weight is None else again * self.weight
        again = again if self.bias is None else again + self.bias
        return rejoin(out, again, (edited != scale)[..., None])


class GroupNorm(Hookable, nn.GroupNorm):
    """torch's GroupNorm of every frame (Wu & He 2018), b f c h w. Site: `scale`, one number for each group of channels."""

    SITES = {"scale": "b f g"}

    def forward(self, x: Tensor) -> Tensor:
        f, g = x.shape[1], self.num_groups
        out = rearrange(super().forward(rearrange(x, "b f c h w -> (b f) c h w")), "(b f) c h w -> b f c h w", f=f)
        if not self.listening("scale"):
            return out
        groups = rearrange(x, "b f (g c) h w -> b f g (c h w)", g=g)
        variance, mean = torch.var_mean(groups.float(), -1, correction=0)
        scale = torch.rsqrt(variance + self.eps)
        edited = self.site("scale", scale)
        if edited is scale:
            return out
        mean, factor, changed = (self._spread(one) for one in (mean, edited, edited != scale))
        again = (x - mean) * factor * self.weight[:, None, None] + self.bias[:, None, None]
        return rejoin(out, again, changed)

    def _spread(self, groups: Tensor) -> Tensor:
        return repeat(groups, "b f g -> b f (g c) 1 1", c=self.num_channels // self.num_groups)


class RMSNorm(Hookable):
    """x * scale * weight with scale = 1 / rms(x), without mean and bias (Zhang & Sennrich 2019). Site: `scale`."""

    def __init__(self, width: int, axes: str = "b n c", eps: float = 1e-6) -> None:
        super().__init__()
        self.SITES = {"scale": " ".join(axes.split()[:-1])}
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        out = F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        if not self.listening("scale"):
            return out
        scale = torch.rsqrt(x.float().square().mean(-1) + self.eps)
        edited = self.site("scale", scale)
        if edited is scale:
            return out
        return rejoin(out, self.weight * x * edited[..., None].to(x.dtype), (edited != scale)[..., None])
