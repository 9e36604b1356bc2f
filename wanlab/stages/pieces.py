"""Tokenizers: what decides their numbers, and one for text encoders without published weights: a few words, and letters."""

from __future__ import annotations

import json
from typing import Any

CALLS = ("padding", "truncation")  # of a fast tokenizer: what the last call asked of it


def rules_of(tokenizer: Any) -> str:
    """All that decides which numbers a fast tokenizer of transformers makes of a text, as JSON, whatever it was asked before.
    TypeError for others, which cannot be told apart."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise TypeError(f"no content key for a tokenizer {type(tokenizer).__name__}: give a fast one of transformers")
    told = {key: value for key, value in json.loads(backend.to_str()).items() if key not in CALLS}
    told |= {name: getattr(tokenizer, name) for name in ("pad_token_id", "padding_side", "truncation_side")}
    return json.dumps(told, sort_keys=True)


def small_tokenizer(size: int) -> Any:
    """A tokenizer of letters and a few words, for pipelines without published weights: at most `size` pieces, blanks kept."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = "a the red green blue circle square moves left right up down and cat dog on in".split()
    pieces = ["<pad>", "</s>", "<unk>", "▁", *(f"▁{word}" for word in words), *"abcdefghijklmnopqrstuvwxyz0123456789.,'!?-"]
    scored = [(piece, -1.0 if piece.startswith("▁") else -4.0) for piece in pieces[:size]]
    model = Tokenizer(models.Unigram(scored, unk_id=2))
    model.normalizer = normalizers.Lowercase()
    model.pre_tokenizer = pre_tokenizers.Metaspace()
    model.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=model, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
