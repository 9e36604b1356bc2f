"""A tokenizer for text encoders without published weights: a few words, and letters."""

from __future__ import annotations

from typing import Any


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
