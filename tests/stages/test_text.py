"""The text stage: T5 as in transformers, a tokenizer that says what it does not know, and the null condition."""

from __future__ import annotations

import pytest
import torch

from wanlab.core import Bypass, trace
from wanlab.data.procedural import VOCABULARY, World
from wanlab.stages.prompt import CutWarning
from wanlab.stages.text import Config, TextEncoder, Tokenizer, relative_bucket

WORDS = ("a", "circle", "moves", "red", "left")


@pytest.fixture
def encoder() -> TextEncoder:
    module = TextEncoder(Config(WORDS, length=8, width=16, head_width=4, heads=4, hidden=24))
    torch.nn.init.normal_(module.null)
    return module.eval()


@pytest.mark.parametrize(("width", "heads", "head_width", "depth"), [(24, 3, 8, 2), (16, 4, 6, 3)])
def test_it_is_the_encoder_of_transformers(width: int, heads: int, head_width: int, depth: int) -> None:
    from transformers import T5Config, T5EncoderModel

    config = Config(tuple("abcdefg"), length=12, width=width, head_width=head_width, heads=heads, depth=depth, hidden=40)
    theirs = T5EncoderModel(T5Config(
        vocab_size=10, d_model=width, d_kv=head_width, d_ff=40, num_layers=depth, num_heads=heads, dropout_rate=0.0,
        feed_forward_proj="gated-gelu", tie_word_embeddings=False,
    )).eval()  # fmt: skip
    for parameter in theirs.parameters():
        parameter.data = torch.randn_like(parameter) * 0.3
    ours = TextEncoder(config).eval()
    ours.load_t5(theirs.state_dict())

    ids = torch.randint(1, 10, (4, 12))
    lengths = torch.tensor([12, 7, 1, 4])
    ids = ids * (torch.arange(12) < lengths[:, None])
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=(ids != 0).long()).last_hidden_state
        out = ours(ids)
    assert torch.allclose(out.tokens, expected * (ids != 0)[..., None], atol=1e-5)
    assert torch.equal(out.mask, (ids != 0).float())


def test_a_t5_of_another_shape_is_refused(encoder: TextEncoder) -> None:
    with pytest.raises(KeyError, match=r"shared\.weight"):
        encoder.load_t5({})
    from transformers import T5Config, T5EncoderModel

    other = T5EncoderModel(T5Config(vocab_size=10, d_model=8, d_kv=4, d_ff=12, num_layers=2, num_heads=2,
                                    feed_forward_proj="gated-gelu"))  # fmt: skip
    with pytest.raises(RuntimeError, match="size mismatch"):
        encoder.load_t5(other.state_dict())


@pytest.mark.parametrize(("buckets", "reach"), [(32, 128), (16, 20), (8, 64)])
def test_buckets_are_those_of_transformers(buckets: int, reach: int) -> None:
    from transformers.models.t5.modeling_t5 import T5Attention

    offset = torch.arange(-300, 301)
    theirs = T5Attention._relative_position_bucket(offset, True, buckets, reach)
    assert torch.equal(relative_bucket(offset, buckets, reach), theirs)


def test_the_tokenizer_ends_and_pads_and_cuts() -> None:
    tokenizer = Tokenizer(WORDS, 5)
    ids = tokenizer(["A red, red circle!", "", "a a a a a a a a"])
    read = [[tokenizer.words[i] for i in row] for row in ids.tolist()]
    assert read[0] == ["a", "red", "red", "circle", "</s>"]
    assert read[1] == ["</s>", "<pad>", "<pad>", "<pad>", "<pad>"]
    assert read[2] == ["a", "a", "a", "a", "</s>"]


def test_a_prompt_that_is_too_long_is_cut_and_says_what_was_lost() -> None:
    text = TextEncoder(Config(("a", "red"), length=4))
    for prompt, said in (("a red a grows", "in 3 words; 'grows' was cut"), ("a red a b c", "in 3 words; 'b c' were cut")):
        with pytest.warns(CutWarning, match=said) as heard:
            text.ids([prompt, prompt, "a red"])
        assert len(heard) == 1
    with pytest.raises(LookupError, match="the word 'grows' was cut: the text stage takes in 3 words; 'grows' was cut"):
        text.tokens_of("a red a grows", "grows")
    assert text.cut_of("a red a") == ""


def test_unknown_words_are_told_and_read_as_one_token() -> None:
    tokenizer = Tokenizer(WORDS, 8)
    assert tokenizer.unknown("A mauve circle moves widdershins, mauve!") == ["mauve", "widdershins"]
    assert torch.equal(tokenizer(["a mauve circle"]), tokenizer(["a beige circle"]))
    assert not torch.equal(tokenizer(["a mauve circle"]), tokenizer(["a red circle"]))
    assert tokenizer.split("Don't stop: naïve-ish") == ["don't", "stop", "naïve", "ish"]


def test_the_worlds_captions_are_known_and_fit() -> None:
    tokenizer = Tokenizer(tuple(VOCABULARY), Config(tuple(VOCABULARY)).length)
    world = World(size=8, frames=1)
    captions = [world.scene(i)[1] for i in range(200)]
    assert not any(tokenizer.unknown(caption) for caption in captions)
    assert max(len(tokenizer.split(caption)) for caption in captions) < tokenizer.length
    assert (tokenizer(captions) == 1).sum(1).eq(1).all()


def test_padding_is_not_read(encoder: TextEncoder) -> None:
    ids = encoder.tokenizer(["a red circle"])
    assert torch.allclose(encoder(ids).tokens[:, :4], encoder(ids[:, :4]).tokens, atol=1e-6)
    assert not encoder(ids).tokens[:, 4:].any()


def test_rows_do_not_see_each_other_and_order_matters(encoder: TextEncoder) -> None:
    ids = encoder.tokenizer(["a red circle moves left", "a circle", "left moves circle red a"])
    out = encoder(ids).tokens
    assert torch.allclose(out[1:2], encoder(ids[1:2]).tokens, atol=1e-6)
    assert not torch.allclose(out[0, :5], out[2, :5].flip(0), atol=1e-3)


def test_no_text_is_the_learned_null_and_so_is_the_stage_removed(encoder: TextEncoder) -> None:
    ids = torch.cat([encoder.tokenizer(["a red circle"]), torch.zeros(1, 8, dtype=torch.long)])
    out = encoder(ids)
    assert torch.equal(out.tokens[1, 0], encoder.null) and not out.tokens[1, 1:].any()
    assert out.mask[1].tolist() == [1, 0, 0, 0, 0, 0, 0, 0]
    with trace(encoder, edits=[Bypass("{out,mask}")]) as t:
        removed = encoder(ids)
    assert t.ledger.ok
    for row in range(2):
        assert torch.equal(removed.tokens[row], out.tokens[1]) and torch.equal(removed.mask[row], out.mask[1])
    empty = encoder(encoder.tokenizer([""]))
    assert empty.mask.sum() == 1 and not torch.allclose(empty.tokens[0], out.tokens[1])


def test_every_block_can_be_looked_into(encoder: TextEncoder) -> None:
    with trace(encoder, capture=["blocks.*.attn.pattern", "blocks.*.mlp_post", "blocks.*.resid_post"]) as t:
        encoder(encoder.tokenizer(["a red circle"]))
    pattern = t.record["blocks.1.attn.pattern"].tensor
    assert torch.allclose(pattern.sum(-1), torch.ones(1, 4, 8), atol=1e-5)
    assert pattern[..., 4:].max() < 1e-6
    assert t.record["blocks.0.mlp_post"].tensor.shape == (1, 8, 24)
