"""The same questions to Wan (small, random weights): frames, height and width are axes of its sites, and its text is padded."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.analysis.test_methods import masked_errors
from wanlab.analysis import attention, paths
from wanlab.analysis.cells import Seen, generate
from wanlab.analysis.concept import concepts
from wanlab.analysis.contrast import Contrast
from wanlab.analysis.daam import daam
from wanlab.analysis.gramcol import gramcol
from wanlab.analysis.sparse import classify
from wanlab.core import Patch
from wanlab.pipelines.wan21 import Wan
from wanlab.pipelines.wan_parts import random_pipeline
from wanlab.pipelines.wan_presets import PRESETS

PROMPT = "a red circle moves left"
FIRST = "dit.blocks.0.resid_post"


@pytest.fixture(scope="module")
def pipe() -> Wan:
    return random_pipeline(PRESETS["wan-random-tiny-t2v"])


def test_words_profiles_statistics_and_maps_are_those_of_the_dense_map(pipe: Wan) -> None:
    seen = attention.read(pipe, None, PROMPT, 1, at="dit.**", words=["red circle"], maps="dit.blocks.1.*", steps=2,
                          when={"steps": 1})
    dense = pipe.generate(None, PROMPT, 1, steps=2, capture="dit.blocks.1.{self_attn,cross_attn}.pattern@steps=1").record
    own, text = (dense[f"dit.blocks.1.{kind}_attn.pattern", 1, "cond"].to_numpy()[0] for kind in ("self", "cross"))
    heads, *grid, _ = own.shape
    blocks = own.reshape(heads, *grid, *grid)
    profile = seen.profile().sel(layer="dit.blocks.1.self_attn", step=1, branch="cond").isel(row=0)
    assert np.allclose(profile, blocks.sum((-2, -1)).mean((2, 3)), atol=1e-6)
    tokens = [i for word in ("red", "circle") for i in pipe.tokens_of(seen.out.request, word, 0)]
    words = seen.words().sel(layer="dit.blocks.1.cross_attn").isel(step=0, branch=0, row=0, word=0)
    assert np.allclose(words, text[..., sorted(set(tokens))].sum(-1), atol=1e-6)
    numbers = seen.statistics().sel(layer="dit.blocks.1.cross_attn", step=1, branch="cond")
    last = max(i for word in PROMPT.split() for i in pipe.tokens_of(seen.out.request, word, 0))
    assert numbers["padding"].min() > 0.5 and (numbers["padding"] <= text[..., last + 1:].sum(-1).mean((1, 2, 3)) + 1e-6).all()
    one = seen.map("dit.blocks.1.self_attn", 1, "cond")
    assert one.sides == one.keys == tuple(grid)
    place = (1, grid[1] - 1, 0)
    assert np.allclose(one.row(*place), blocks[(slice(None), *place)], atol=1e-6)


def test_word_maps_of_published_methods_stand_on_its_own_axes(pipe: Wan) -> None:
    """Its cross-attention has frames, height and width as axes, and no grid of tokens; the bare calls take them."""
    grid = pipe.sites()["dit.blocks.0.cross_attn.z"].axes
    assert "n" not in grid and pipe.grid_of("dit.blocks.0.cross_attn.z") is None
    record = pipe.generate(None, PROMPT, 1, steps=1, capture="dit.blocks.*.cross_attn.pattern@branch=cond").record
    maps = [record.entry(key).to_numpy()[0] for key in record.firings]
    own = sorted({at for word in ("red", "circle") for at in pipe.tokens_of(pipe.request(None, PROMPT), word, 0)})
    size = maps[0].shape[2:4]
    heat = daam(pipe, None, PROMPT, ["red circle"], 1, steps=1)
    assert np.allclose(heat.isel(row=0, word=0), np.mean([one[..., own].sum(-1).mean(0) for one in maps], 0), atol=1e-6)
    shares = concepts(pipe, None, PROMPT, ["red circle", "left"], 1, steps=1, size=size)
    assert np.allclose(shares.sum("word"), 1, atol=1e-5) and shares.shape == (*maps[0].shape[1:4], 2)
    columns = gramcol(pipe, None, PROMPT, "left", 1, steps=1, size=size, motion=0.5)
    assert columns.shape == maps[0].shape[1:4] and np.isfinite(columns).all() and np.ptp(columns.values) == 1


def test_its_heads_have_a_choice_between_frame_and_place(pipe: Wan) -> None:
    sites = "dit.blocks.0.self_attn.{pattern,v}@steps=0,branch=cond"
    record = pipe.generate(None, PROMPT, steps=1, capture=sites).record
    p, v = (record[f"dit.blocks.0.self_attn.{side}", 0, "cond"].to_numpy()[0] for side in ("pattern", "v"))
    frames = p.shape[1]
    table = classify(pipe, None, PROMPT, layer="dit.blocks.0.self_attn", step=0, steps=1, width=0.5, queries=v.shape[1])
    assert np.allclose(table, masked_errors(p.reshape(len(p), v.shape[1], -1), v, frames, 0.5), rtol=1e-3)
    assert (table > 0).all() and table.sizes["head"] == pipe.dit.config.heads


def test_paths_from_words_to_a_block_are_those_of_runs_by_hand_and_closed_ones_carry_nothing() -> None:
    """Words reach block 1 through its own cross-attention, and through block 0, which is held still."""
    pipe = random_pipeline(PRESETS["wan-random-tiny"])
    image = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    left, right = (pipe.request(image, f"a red circle moves {way}", 0, steps=1) for way in ("left", "right"))
    plain = generate(pipe, left, capture=[FIRST]).record, generate(pipe, left).video

    def moved(seen: Seen) -> torch.Tensor:
        return (seen.video - plain[1]).square().sum((1, 2, 3, 4))

    receivers = {"block 1": "dit.blocks.1.cross_attn.out", "its queries": "dit.blocks.1.cross_attn.q"}
    found = paths.patch(Contrast(pipe, left, right), {"words": "text.out"}, receivers, FIRST, {"moved": moved})
    value = found.table.set_index("receiver").value
    sent = generate(pipe, right, capture=["text.out"]).record
    arrived = generate(pipe, left, edits=[Patch(FIRST, plain[0]), Patch("text.out", sent)], capture=[receivers["block 1"]]).record
    by_hand = generate(pipe, left, edits=[Patch(receivers["block 1"], arrived)]).video
    assert value["block 1"] == pytest.approx(float(moved(Seen({"video": by_hand}, left)))) and value["block 1"] > 0
    assert value["its queries"] == 0 == found.table.base.iloc[0], "they hear of the words through block 0 alone"
