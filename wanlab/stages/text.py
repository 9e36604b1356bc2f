"""Text stage: a T5 encoder (Raffel et al. 2020) rebuilt from hookable blocks, with its own small vocabulary.

Weights of `transformers.T5EncoderModel` load through `load_t5`; tests hold the two to parity.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from wanlab.core import Hookable
from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted
from wanlab.nn.attention import Attention
from wanlab.nn.norm import RMSNorm
from wanlab.stages.prompt import warn_of_cut

PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
STREAM = "b j c"


@dataclass(frozen=True)
class Config:
    """Vocabulary and sizes of the text stage, in T5's words."""

    vocabulary: tuple[str, ...]
    length: int = 24          # tokens, the end token included
    width: int = 64
    head_width: int = 16
    heads: int = 4
    depth: int = 2
    hidden: int = 128
    buckets: int = 32         # of the relative position bias
    reach: int = 128          # distance beyond which all positions share a bucket


class Text(NamedTuple):
    """What the text stage gives: `tokens` b j c and `mask` b j, 1 where a token is to be read."""

    tokens: Tensor
    mask: Tensor


class Tokenizer:
    """Words to numbers, one token a word; what is not a known word becomes `<unk>`."""

    def __init__(self, vocabulary: tuple[str, ...], length: int) -> None:
        self.words = (PAD, END, UNKNOWN, *vocabulary)
        self.index = {word: i for i, word in enumerate(self.words)}
        self.length = length

    def split(self, prompt: str) -> list[str]:
        """The words of a prompt, in order, lower-case, without punctuation."""
        return re.findall(r"[^\W_]+(?:'\w+)?", prompt.lower())

    def unknown(self, prompt: str) -> list[str]:
        """Words that the vocabulary does not hold, in order, each once."""
        return [w for w in dict.fromkeys(self.split(prompt)) if w not in self.index]

    def __call__(self, prompts: list[str]) -> Tensor:
        """Token numbers (b j) of prompts, ended and padded; a longer prompt is cut."""
        ids = torch.zeros(len(prompts), self.length, dtype=torch.long)
        for row, prompt in zip(ids, prompts, strict=True):
            known = [self.index.get(w, self.index[UNKNOWN]) for w in self.split(prompt)][: self.length - 1]
            row[: len(known) + 1] = torch.tensor([*known, self.index[END]])
        return ids


class Block(Hookable):
    """T5 block: self-attention with relative bias, then a gated GELU network, both pre-normalised.

    Sites: the residual stream, what is added to it, and the hidden units: `mlp_pre` before the GELU, `mlp_linear` what
    gates it, `mlp_post` their product.
    """

    SITES = {"resid_pre": STREAM, "attn_out": STREAM, "resid_mid": STREAM, "mlp_pre": STREAM, "mlp_linear": STREAM,
             "mlp_post": STREAM, "mlp_out": STREAM, "resid_post": STREAM}

    def __init__(self, config: Config) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.norm1, self.norm2 = RMSNorm(config.width, STREAM), RMSNorm(config.width, STREAM)
        self.attn = Attention(config.width, config.heads, "b n c", bias=False, scale=1.0, inner=inner)
        self.gate = nn.Linear(config.width, config.hidden, bias=False)
        self.up = nn.Linear(config.width, config.hidden, bias=False)
        self.down = nn.Linear(config.hidden, config.width, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """Tokens b n c, and a bias of the logits that broadcasts to b k n n -> b n c."""
        x = self.site("resid_pre", x)
        y = self.site("attn_out", self.attn(self.norm1(x), bias=bias), identity=lambda: torch.zeros_like(x))
        mid = self.site("resid_mid", x + y)
        y = self.norm2(mid)
        pre, linear = self.site("mlp_pre", self.gate(y)), self.site("mlp_linear", self.up(y))
        y = self.site("mlp_post", F.gelu(pre, approximate="tanh") * linear)
        y = self.site("mlp_out", self.down(y), identity=lambda: torch.zeros_like(x))
        return self.site("resid_post", mid + y, identity=x)


class TextEncoder(Hookable):
    """Prompts to tokens (b j c); the learned null condition stands in where the text is dropped or removed."""

    SITES = {"embed": "b j c", "out": "b j c", "mask": "b j"}
    PUBLISHED: tuple[str, ...] = ()     # its modules that others published

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.tokenizer = config, Tokenizer(config.vocabulary, config.length)
        self.embed = nn.Embedding(len(self.tokenizer.words), config.width)
        self.distance = nn.Embedding(config.buckets, config.heads)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, STREAM)
        self.null = nn.Parameter(torch.zeros(config.width))
        self._init_distance()

    @property
    def length(self) -> int:
        """Tokens of a prompt, the end's included."""
        return self.config.length

    def ids(self, prompts: list[str]) -> Tensor:
        """Token numbers (b j) of prompts, ended and padded; one that is longer is cut, with a warning that shows what fell off."""
        warn_of_cut(prompts, self.cut_of)
        return self.tokenizer(prompts)

    def cut_of(self, prompt: str) -> str:
        """What is not taken in of a prompt, in words; empty where all is."""
        lost = self.tokenizer.split(prompt)[self.length - 1 :]
        were = "was" if len(lost) == 1 else "were"
        return f"the text stage takes in {self.length - 1} words; {quoted(' '.join(lost))} {were} cut" if lost else ""

    def words(self, prompt: str) -> list[str]:
        """The words of a prompt; one token each, as many as are taken in."""
        return self.tokenizer.split(prompt)[: self.length - 1]

    def tokens_of(self, prompt: str, word: str) -> list[int]:
        """Places of the tokens of `word`. LookupError lists the prompt's words."""
        found = [i for i, w in enumerate(self.words(prompt)) if w == word.lower()]
        if not found:
            words = self.tokenizer.split(prompt)
            if word.lower() in words:
                raise LookupError(f"the word {word!r} was cut: {self.cut_of(prompt)}")
            raise LookupError(f"the prompt has no word {word!r}{suggestion(word, words)}; it has: {' '.join(words)}")
        return found

    def unknown(self, prompt: str) -> list[str]:
        """Words of a prompt that the vocabulary does not hold."""
        return self.tokenizer.unknown(prompt)

    def forward(self, ids: Tensor) -> Text:
        """Token numbers (b j) to `Text`; a row of padding alone is the null condition."""
        mask = (ids != 0).float()
        bias = self._bias(ids.shape[1]) + torch.where(mask > 0, 0.0, -1e9)[:, None, None]   # b k j j
        x = self.site("embed", self.embed(ids))
        for block in self.blocks:
            x = block(x, bias)
        null, null_mask = self.null_text(*ids.shape)
        given = mask.amax(1, keepdim=True) > 0
        x = torch.where(given[..., None], self.norm(x) * mask[..., None], null)
        mask = torch.where(given, mask, null_mask)
        return Text(self.site("out", x, identity=null), self.site("mask", mask, identity=null_mask))

    def null_text(self, b: int, length: int) -> Text:
        """The trained null condition: one learned token, the rest hidden."""
        mask = torch.zeros(b, length, device=self.null.device, dtype=self.null.dtype)
        mask[:, 0] = 1
        return Text(mask[..., None] * self.null, mask)

    def load_t5(self, state: dict[str, Tensor]) -> None:
        """Take the weights of a `transformers` T5 encoder (v1.1 layout, gated GELU); strict, embeddings included."""
        own = {"embed.weight": state["shared.weight"], "norm.weight": state["encoder.final_layer_norm.weight"],
               "distance.weight": state["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"],
               "null": self.null.data}
        for i in range(len(self.blocks)):
            attn, mlp = f"encoder.block.{i}.layer.0.", f"encoder.block.{i}.layer.1."
            own |= {f"blocks.{i}.attn.{n}.weight": state[f"{attn}SelfAttention.{n}.weight"] for n in "qkvo"}
            own |= {f"blocks.{i}.norm1.weight": state[attn + "layer_norm.weight"],
                    f"blocks.{i}.norm2.weight": state[mlp + "layer_norm.weight"]}
            own |= {f"blocks.{i}.{ours}.weight": state[f"{mlp}DenseReluDense.{theirs}.weight"]
                    for ours, theirs in (("gate", "wi_0"), ("up", "wi_1"), ("down", "wo"))}
        self.load_state_dict(own, strict=True)

    def _bias(self, length: int) -> Tensor:
        place = torch.arange(length, device=self.distance.weight.device)
        bucket = relative_bucket(place[None] - place[:, None], self.config.buckets, self.config.reach)
        return rearrange(self.distance(bucket), "n j k -> 1 k n j")

    def _init_distance(self) -> None:
        """Start from a decay with distance, a slope per head (ALiBi, Press et al. 2022): words bind to their neighbours."""
        with torch.no_grad():
            offset = torch.arange(-self.config.length, self.config.length + 1, device="cpu")
            bucket = relative_bucket(offset, self.config.buckets, self.config.reach)
            slope = torch.linspace(0.3, 1.5, self.config.heads)
            for d, row in zip(offset.tolist(), bucket.tolist(), strict=True):
                self.distance.weight[row] = -slope * abs(d)


def relative_bucket(offset: Tensor, buckets: int, reach: int) -> Tensor:
    """T5's bidirectional buckets: exact up to a quarter of them, then logarithmic up to `reach` (Raffel et al. 2020, 2.1)."""
    half = buckets // 2
    exact = half // 2
    size = offset.abs()
    log = exact + (torch.log(size.clamp(min=1).float() / exact) / math.log(reach / exact) * (half - exact)).long()
    return (offset > 0).long() * half + torch.where(size < exact, size, log.clamp(max=half - 1))
