"""Text stage of the article: T5 (Raffel et al. 2020) from transformers, with sites from a table, and a projection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wanlab.stages.pieces import small_tokenizer
from wanlab.stages.prompt import warn_of_cut
from wanlab.stages.text import Text
from wanlab.stages.umt5 import Umt5, clean


@dataclass(frozen=True)
class Config:
    """Sizes in T5's words; the defaults are those of T5-base (the first one: feed-forward with ReLU), 77 tokens x 768.

    output  width of the tokens that the stage gives
    """

    vocabulary: int = 32128
    length: int = 77
    width: int = 768
    head_width: int = 64
    heads: int = 12
    depth: int = 12
    hidden: int = 3072
    buckets: int = 32
    reach: int = 128
    feed_forward: str = "relu"
    output: int = 768


class T5Encoder(Umt5):
    """Prompts to tokens (b j c), with the learned null condition where the text is dropped or removed.

    Sites: those of the encoder, `projected`, `out` and `mask` (bypass: the null condition).
    """

    SITES = {"projected": "b j c", "out": "b j c", "mask": "b j"}
    PUBLISHED = ("encoder",)            # its modules that others published

    def __init__(self, config: Config) -> None:
        from transformers import T5Config, T5EncoderModel

        told = T5Config(
            vocab_size=config.vocabulary, d_model=config.width, d_kv=config.head_width, d_ff=config.hidden, num_layers=config.depth,
            num_heads=config.heads, relative_attention_num_buckets=config.buckets, relative_attention_max_distance=config.reach,
            feed_forward_proj=config.feed_forward, dropout_rate=0.0, pad_token_id=0, eos_token_id=1)
        super().__init__(T5EncoderModel(told), small_tokenizer(config.vocabulary), config.length)
        self.config = config
        self.project = nn.Linear(config.width, config.output)
        self.null = nn.Parameter(0.02 * torch.randn(config.output))

    def ids(self, prompts: Sequence[str]) -> Tensor:
        """Token numbers (b j) of prompts, ended and padded; one that is longer is cut, with a warning that shows what fell off."""
        texts = [clean(prompt) for prompt in prompts]
        warn_of_cut(texts, self.cut_of)
        told = self.tokenizer(texts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt")
        ids: Tensor = told.input_ids
        return ids

    def forward(self, ids: Tensor) -> Text:  # type: ignore[override]
        """Token numbers (b j) to `Text`; a row of padding alone is the null condition."""
        mask = (ids != 0).float()
        seen = mask.clone()
        seen[:, 0] = 1                                              # a row without text attends to something, and is not read
        hidden = self.encoder(ids, None if ids.is_meta else seen).last_hidden_state
        x = self.site("projected", self.project(hidden)) * mask[..., None]
        null = self.null_text(*ids.shape)
        given = mask.amax(1, keepdim=True) > 0
        x, mask = torch.where(given[..., None], x, null.tokens), torch.where(given, mask, null.mask)
        return Text(self.site("out", x, identity=null.tokens), self.site("mask", mask, identity=null.mask))

    def null_text(self, b: int, length: int) -> Text:
        """The null condition: one learned token, the rest hidden."""
        mask = torch.zeros(b, length, device=self.null.device, dtype=self.null.dtype)
        mask[:, 0] = 1
        return Text(mask[..., None] * self.null, mask)

    def unknown(self, prompt: str) -> list[str]:
        """None: the tokenizer splits whatever it does not know into pieces that it does."""
        return []
