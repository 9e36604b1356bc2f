"""Text stage of Wan: umT5 (Chung et al. 2023) from transformers, with sites from a table, and which tokens a word became."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from contextvars import Context
from typing import Any

import ftfy
import torch
from torch import Tensor, nn

from wanlab.core import Hookable, Place, adapt
from wanlab.core.nearest import suggestion
from wanlab.stages.pieces import rules_of
from wanlab.stages.prompt import warn_of_cut

LENGTH = 512        # tokens, as the transformer was trained; the rest of a longer prompt is cut
_LAYER = "encoder.block.{i}.layer"
SITES = {
    "embed": Place("encoder.embed_tokens", "b j c", identity=None),
    "blocks.{i}.resid_pre": Place("encoder.block.{i}", "b j c", side="input"),
    **{f"blocks.{{i}}.attn.{name}": Place(f"{_LAYER}.0.SelfAttention.{name}", reshape="b j (k d) -> b k j d",
                                          sizes={"k": "n_heads"}, identity=None) for name in "qkv"},
    "blocks.{i}.attn.z": Place(f"{_LAYER}.0.SelfAttention.o", side="input", reshape="b j (k d) -> b k j d",
                               sizes={"k": "n_heads"}),
    "blocks.{i}.attn.out": Place(f"{_LAYER}.0.SelfAttention.o", "b j c", identity="zeros"),
    "blocks.{i}.mlp.post": Place(f"{_LAYER}.1.DenseReluDense.wo", "b j c", side="input"),
    "blocks.{i}.mlp.out": Place(f"{_LAYER}.1.DenseReluDense.wo", "b j c", identity="zeros"),
    "norm": Place("encoder.final_layer_norm", "b j c"),
}
_WORD = re.compile(r"\w+(?:['’-]\w+)*|[^\w\s]", re.UNICODE)


class Umt5(Hookable):
    """Prompts to tokens (b 512 c): padded, encoded under their mask, the padding then set to zero; the transformer sees all 512.

    Sites: those of the encoder, and `out` (bypass: the empty prompt, which is Wan's text that says nothing).
    """

    SITES = {"out": "b j c"}

    def __init__(self, encoder: nn.Module, tokenizer: Any, length: int = LENGTH) -> None:
        super().__init__()
        self.encoder, self.length = adapt(encoder.eval(), SITES), length
        self.__dict__["tokenizer"] = tokenizer

    @property
    def rules(self) -> dict[str, Any]:
        """What decides its output beside configuration and weights: part of its content key."""
        return {"tokenizer": rules_of(self.tokenizer), "length": self.length}

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """Encode; b j c. A prompt of more tokens than the length is cut, with a warning that shows what fell off."""
        out = self._encode(prompts)
        return self.site("out", out, identity=lambda: Context().run(self._encode, [""]).expand_as(out))

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str]) -> Tensor:
        device = next(self.encoder.parameters()).device
        texts = [clean(prompt) for prompt in prompts]
        told = self.tokenizer(texts, padding="max_length", max_length=self.length, truncation=True, return_tensors="pt")
        warn_of_cut(texts, self.cut_of)
        mask = told.attention_mask.to(device)
        seen = None if mask.is_meta else mask               # a mask without values cannot be looked into
        hidden = self.encoder(told.input_ids.to(device), seen).last_hidden_state
        return hidden * mask[..., None].to(hidden.dtype)

    def cut_of(self, prompt: str) -> str:
        """What is not taken in of a prompt, in words; empty where all is."""
        text = clean(prompt)
        ends = [end for _, end in self._spans(text)]
        kept = self.length - 1                                                          # the last place is the end's
        if len(ends) <= kept:
            return ""
        lost = text[ends[kept - 1]:].strip()
        shown = lost if len(lost) <= 200 else f"{lost[:100]} … {lost[-100:]}"
        return f"the prompt has {len(ends)} tokens and the text stage takes {kept}; what it does not see: {shown!r}"

    def words(self, prompt: str) -> list[str]:
        """The words and marks of a prompt, in order, as far as they are taken in."""
        text = clean(prompt)
        kept = self._spans(text)[: self.length - 1]
        return [match[0] for match in _WORD.finditer(text) if kept and match.start() < kept[-1][1]]

    def tokens_of(self, prompt: str, word: str) -> list[int]:
        """Places of the tokens of `word` (all its pieces, wherever it stands). LookupError lists the prompt's words."""
        text = clean(prompt)
        spans = [match.span() for match in _WORD.finditer(text) if match[0].lower() == word.lower()]
        if not spans:
            words = _WORD.findall(text)
            raise LookupError(f"the prompt has no word {word!r}{suggestion(word, words)}; it has: {' '.join(words)}")
        found = [i for i, (start, end) in enumerate(self._spans(text)[: self.length - 1])
                 if any(start < stop and begin < end for begin, stop in spans)]
        if not found:
            raise LookupError(f"the word {word!r} was cut: {self.cut_of(prompt)}")
        return found

    def _spans(self, text: str) -> list[tuple[int, int]]:
        """Where each token of a text stands in it; the token of the end has no place."""
        told = self.tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)
        return [tuple(span) for span in told.offset_mapping]


def clean(prompt: str) -> str:
    """A prompt as Wan's own code cleans it: broken encodings mended, entities resolved twice, blanks made single."""
    return re.sub(r"\s+", " ", html.unescape(html.unescape(ftfy.fix_text(prompt)))).strip()
