"""V-JEPA (Bardes et al. 2024) as JEDi uses it, and any V-JEPA 2 folder of transformers.

JEDi (Luo et al. 2024) takes the target encoder of `vith16.pth.tar` (ViT-H/16, 32 blocks, 1280 wide, 16 frames of 224 x 224)
and pools its tokens with the one query of the probe that was trained on Something-Something v2 (`ssv2-probe.pth.tar`).
Without the probe the features are the mean over tokens, and the name of the number says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional

from . import weights
from .vit import Feedforward, VideoEncoder, measured

HEADS = 16


class CrossAttention(nn.Module):
    """Queries attend to tokens."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv, self.proj = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        """Queries `b m d` and tokens `b n d`, the queries."""
        q = rearrange(self.q(queries), "b n (k d) -> b k n d", k=self.heads)
        k, v = rearrange(self.kv(x), "b n (two k d) -> two b k n d", two=2, k=self.heads)
        return self.proj(rearrange(functional.scaled_dot_product_attention(q, k, v), "b k n d -> b n (k d)"))


class CrossBlock(nn.Module):
    """Cross-attention and feedforward, both added to the queries; only the tokens are normalised before the first."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.xattn = CrossAttention(width, heads)
        self.mlp = Feedforward(width, hidden)

    def forward(self, queries: Tensor, x: Tensor) -> Tensor:
        """Queries `b m d` and tokens `b n d`, the queries."""
        queries = queries + self.xattn(queries, self.norm1(x))
        return queries + self.mlp(self.norm2(queries))


class Pooler(nn.Module):
    """The attentive probe without its classifier: one learned query over all tokens, `b n d` -> `b d`."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.query_tokens = nn.Parameter(torch.zeros(1, 1, width))
        self.cross_attention_block = CrossBlock(width, heads, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """What the query gathers of tokens."""
        return self.cross_attention_block(self.query_tokens.expand(len(x), -1, -1), x)[:, 0]


class VJepa(VideoEncoder):
    """The encoder with its last normalisation: `b c f h w` (ImageNet-normalised) -> tokens `b n d`, or `b d` when pooled."""

    def __init__(self, width: int, depth: int, heads: int, hidden: int, patch: int, tubelet: int, places: int) -> None:
        super().__init__(width, depth, heads, hidden, patch, tubelet, places, split_bias=False, fixed=False)
        self.norm = nn.LayerNorm(width, 1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens of clips."""
        return self.norm(self.tokens(x))


class Jedi(nn.Module):
    """Features of JEDi: the probe's pooling of V-JEPA's tokens, or their mean where there is no probe."""

    def __init__(self, encoder: VJepa, pooler: Pooler | None) -> None:
        super().__init__()
        self.encoder, self.pooler = encoder, pooler

    def forward(self, x: Tensor) -> Tensor:
        """Features `b d` of clips `b c f h w`, ImageNet-normalised."""
        tokens = self.encoder(x)
        return tokens.mean(1) if self.pooler is None else self.pooler(tokens)


def load(path: str | Path, probe: str | Path | None, heads: int = HEADS) -> Jedi:
    """The target encoder of a V-JEPA checkpoint and, where given, the pooler of a probe trained on it.

    Raises:
        metrics.weights.WeightsError: other files; a tensor that is missing, unexpected, of another shape, not finite.
    """
    state = {_bare(name): value for name, value in weights.tensors(path, "target_encoder").items()}
    try:
        encoder = VJepa(**measured(state), heads=heads, places=state["pos_embed"].shape[1])
    except KeyError as error:
        raise weights.WeightsError(f"{path}: not a V-JEPA encoder (lacks {error})") from error
    weights.fill(encoder, state, path)
    return Jedi(encoder, None if probe is None else _pooler(probe, heads)).eval()


def _pooler(path: str | Path, heads: int) -> Pooler:
    state = {_bare(name): value for name, value in weights.tensors(path, "classifier").items()}
    state = {name.removeprefix("pooler."): value for name, value in state.items() if not name.startswith("linear.")}
    try:
        hidden, width = state["cross_attention_block.mlp.fc1.weight"].shape
    except KeyError as error:
        raise weights.WeightsError(f"{path}: not an attentive probe (lacks {error})") from error
    pooler = Pooler(width, heads, hidden)
    weights.fill(pooler, state, path)
    return pooler


def _bare(name: str) -> str:
    """A tensor's name without what parallel training put before it."""
    return name.removeprefix("module.").removeprefix("backbone.")


class Folder(nn.Module):
    """A V-JEPA 2 of transformers: the mean over the encoder's tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """`b c f h w`, ImageNet-normalised -> `b width`."""
        return self.model.get_vision_features(x.transpose(1, 2)).mean(1)


def load_folder(path: str | Path) -> Folder:
    """The V-JEPA 2 encoder in a folder of transformers; nothing is downloaded.

    Raises:
        metrics.weights.WeightsError: not such a folder, or tensors that the encoder needs are missing.
    """
    from transformers import VJEPA2Model

    return Folder(weights.from_folder(VJEPA2Model, path))
