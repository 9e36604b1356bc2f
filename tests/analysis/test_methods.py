"""Published methods, each on a case whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from xarray import DataArray

from tests.analysis.foreign import FRAMES, HEIGHT, WIDTH, Foreign
from wanlab.analysis import attention
from wanlab.analysis.concept import concepts
from wanlab.analysis.daam import daam
from wanlab.analysis.difftrack import correspond, match
from wanlab.analysis.gramcol import columns, gramcol, moving, separation, standardised
from wanlab.analysis.layout import AttentionError
from wanlab.analysis.localise import scores
from wanlab.analysis.rollout import rollout
from wanlab.analysis.sparse import classify, errors

PROMPT = "a red circle moves left"
GRID = (FRAMES, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def pipe() -> Foreign:
    torch.manual_seed(0)
    return Foreign()


@pytest.fixture(scope="module")
def reader() -> Foreign:
    """A pipeline in which a thing that moves one column a frame reads the words "red circle", and nothing else does.

    The thing's patches carry channel 0, and queries and keys of the cross-attention know no other; the words' vectors too.
    """
    torch.manual_seed(0)
    pipe = Foreign()
    for attn in pipe.dit.attn:
        attn.o.weight.zero_(), attn.o.bias.zero_()
    for cross in pipe.dit.cross:
        for linear in (cross.q, cross.k):
            linear.weight.zero_(), linear.bias.zero_()
            linear.weight[0, 0] = linear.weight[8, 0] = 3.0
        cross.v.weight.copy_(torch.eye(16)), cross.v.bias.zero_()
        cross.o.weight.zero_(), cross.o.bias.zero_()
    pipe.words.weight.zero_()
    pipe.words.weight[1, 0] = pipe.words.weight[2, 0] = 4.0         # red, circle
    pipe.words.weight[3, 0], pipe.words.weight[4, 8] = -4.0, 4.0    # moves, left

    def run(name, inputs, request, progress):  # type: ignore[no-untyped-def]
        from wanlab.core import clock

        x = torch.zeros(len(request), *GRID, 16)
        for frame in range(FRAMES):
            x[:, frame, 0, frame + 1, 0] = 2.0
        for step in range(request.steps):
            for branch in pipe.branches(request):
                with clock.at(step=step, sigma=1.0, branch=branch):
                    out = pipe.dit(x.flatten(1, 3), pipe.context(request.prompts if branch == "cond" else [""]))
        return {"video": out[..., :3].reshape(1, *GRID, 3).permute(0, 1, 4, 2, 3)}

    object.__setattr__(pipe, "_run", run)
    return pipe


MASK = np.zeros(GRID)
for _frame in range(FRAMES):
    MASK[_frame, 0, _frame + 1] = 1


def test_daam_is_the_mean_of_the_words_columns(pipe: Foreign) -> None:
    record = pipe.generate(None, PROMPT, capture="dit.cross.*.pattern@branch=cond").record
    dense = np.stack([record.entry(key).to_numpy()[0, ..., 1:3].sum(-1).mean(0) for key in record.firings])
    heat = daam(pipe, None, PROMPT, ["red circle"], at="dit.cross.*")
    assert heat.dims == ("row", "frame", "h", "w", "word")
    assert np.allclose(heat.values[0, ..., 0], dense.mean(0).reshape(GRID), atol=1e-6)


def test_word_maps_find_the_thing_that_reads_the_word(reader: Foreign) -> None:
    size = (HEIGHT, WIDTH)
    heats = {"daam": daam(reader, None, PROMPT, ["red circle"], at="dit.cross.*").values[0, ..., 0],
             "gramcol": gramcol(reader, None, PROMPT, "red circle", at="dit.cross.**", size=size).values,
             "concept": concepts(reader, None, PROMPT, ["red circle", "moves", "left"], at="dit.cross.**", size=size
                                 ).sel(word="red circle").values}
    for name, heat in heats.items():
        assert scores(heat, MASK) == {"pointing": 1.0, "iou": 1.0, "chance": 1 / (HEIGHT * WIDTH)}, name


def test_gram_columns_of_written_outputs() -> None:
    """The surrogate of a key is the patch whose query agrees most with it, however much the patch reads another key still more."""
    z = np.zeros((1, 2, 2, 2, 3))
    z[0, :, 0, 0] = z[0, :, 1, 1] = [1, 0, 0]
    z[0, :, 0, 1] = [0, 2, 0]
    q = np.zeros((1, 2, 2, 2, 2))
    q[0, 0, 1, 1], q[0, 1, 0, 1] = [3, 9], [3, 0]           # of key 0 another surrogate in each frame; the first reads key 1 more
    q[0, :, 1, 0] = [2, -9]                                 # most of its softmax would be on key 0
    k = np.eye(2)[None]
    dims = ("head", "frame", "h", "w", "unit")
    found = columns(DataArray(z, dims=dims), DataArray(q, dims=dims), DataArray(k, dims=("head", "key", "unit")))
    assert found.isel(key=0).values[0].tolist() == [[[1, 0], [0, 1]], [[0, 4], [0, 0]]]
    framed = DataArray(np.stack([k, k[:, ::-1]], 1), dims=("head", "frame", "key", "unit"))     # keys of each frame
    other = columns(DataArray(z, dims=dims), DataArray(q, dims=dims), framed)
    assert np.array_equal(other.isel(frame=0), found.isel(frame=0))
    assert np.array_equal(other.isel(frame=1), found.isel(frame=1, key=[1, 0]))


def test_columns_are_standardised_over_the_words_head_by_head() -> None:
    """A patch whose output is long has large products with every surrogate: that says nothing of one word."""
    heat = DataArray([[[5.0, 6.0, 7.0], [500.0, 600.0, 400.0]]], dims=("head", "h", "key"))
    assert np.allclose(standardised(heat), [[[-1, 0, 1], [0, 1, -1]]], atol=1e-5)
    with pytest.raises(AttentionError, match="it needs two at least"):
        standardised(heat[..., :1])


def test_gramcol_of_a_pipeline_is_the_mean_of_standardised_columns(pipe: Foreign) -> None:
    record = pipe.generate(None, PROMPT, capture="dit.cross.*.{q,k,z}@branch=cond").record
    means = []
    for layer in (0, 1):
        for step in (0, 1):
            q, k, z = (record[f"dit.cross.{layer}.{side}", step, "cond"].to_numpy()[0] for side in "qkz")
            for head in range(2):
                columns = np.zeros((FRAMES, HEIGHT * WIDTH, 5))
                for frame, word in np.ndindex(FRAMES, 5):
                    own = slice(frame * HEIGHT * WIDTH, (frame + 1) * HEIGHT * WIDTH)
                    best = max(range(HEIGHT * WIDTH), key=lambda i: q[head, own][i] @ k[head, word])
                    columns[frame, :, word] = z[head, own] @ z[head, own][best]
                means.append((columns - columns.mean(-1, keepdims=True)) / (columns.std(-1, ddof=1, keepdims=True) + 1e-6))
    whole = np.mean(means, 0)[..., 1:3].mean(-1).reshape(GRID)          # red, circle
    low, high = (end((1, 2), keepdims=True) for end in (whole.min, whole.max))
    found = gramcol(pipe, None, PROMPT, "red circle", size=(HEIGHT, WIDTH))
    assert np.allclose(found, (whole - low) / (high - low), atol=1e-4)


def test_a_head_whose_outputs_move_separates_the_frames() -> None:
    draw = np.random.default_rng(0)
    z = draw.normal(size=(2, 4, 3, 3, 5))
    z[1] += 10 * np.arange(4)[:, None, None, None]
    still, moving = separation(DataArray(z, dims=("head", "frame", "h", "w", "unit"))).values
    assert moving > 100 * still


def test_each_layer_and_step_keeps_its_own_moving_heads() -> None:
    draw = np.random.default_rng(0)
    z = draw.normal(size=(2, 4, 4, 3, 3, 5))
    march = 10 * np.arange(4)[:, None, None, None]
    z[0, 1] += 0.1 * march                          # the step in which outputs move less still has a head of its own
    z[1, 2] += march
    kept = moving(DataArray(z, dims=("step", "head", "frame", "h", "w", "unit")), 0.25)
    assert kept.values.tolist() == [[False, True, False, False], [False, False, True, False]]


def test_motion_maps_keep_the_heads_that_tell_frames_apart(pipe: Foreign) -> None:
    every, some = (gramcol(pipe, None, PROMPT, "moves", at="dit.cross.**", motion=part, size=(2, 4)).values
                   for part in (None, 0.25))
    assert every.shape == some.shape == GRID and not np.allclose(every, some)
    assert np.allclose(gramcol(pipe, None, PROMPT, "moves", at="dit.cross.**", motion=1.0, size=(2, 4)).values, every)


@pytest.mark.parametrize("method", [daam, concepts])
def test_nothing_runs_where_no_layer_reads_words(pipe: Foreign, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Foreign, "_run", None)
    with pytest.raises(AttentionError, match=r"'dit.attn.\*' reads the prompt's words in every frame; there are dit.cross.0, dit"):
        method(pipe, None, PROMPT, ["red circle"], at="dit.attn.*")


def test_the_bare_calls_fit_the_shipped_weights() -> None:
    """Of a UNet whose fusion reads words too, but on patches of the first image: those are no frames of the video."""
    import wanlab

    tiny = wanlab.load("tiny")
    image = torch.rand(3, tiny.config["size"], tiny.config["size"])
    heat = daam(tiny, image, PROMPT, ["red circle"], steps=1)
    assert heat.dims == ("row", "frame", "h", "w", "word") and heat.shape == (1, tiny.config["frames"], 8, 8, 1)
    assert (heat > 0).all() and (heat < 1).all()
    assert gramcol(tiny, image, PROMPT, "left", steps=1).shape == (tiny.config["frames"], 8, 8)
    assert np.allclose(concepts(tiny, image, PROMPT, ["red", "left"], steps=1).sum("word"), 1, atol=1e-5)


def test_points_are_found_where_keys_equal_their_query() -> None:
    draw = np.random.default_rng(0)
    k = draw.normal(size=(2, 4, 5, 5, 16)) * 0.1
    thing = draw.normal(size=16) * 3
    q = k.copy()
    for frame in range(4):
        k[:, frame, 2, frame] = q[:, frame, 2, frame] = thing           # moves right, one place a frame
    found = match(q, k, [(0.1, 0.5)])
    assert np.allclose(found.values[:, 0], [[0.1 + 0.2 * f, 0.5] for f in range(4)])
    assert (found.confidence > 0.9).all()


def test_correspondences_of_a_pipeline_are_those_of_its_queries_and_keys(pipe: Foreign) -> None:
    record = pipe.generate(None, PROMPT, capture="dit.attn.0.{q,k}@steps=1,branch=cond").record
    q, k = (record[f"dit.attn.0.{side}", 1, "cond"].to_numpy()[0].reshape(2, *GRID, 8) for side in "qk")
    found = correspond(pipe, None, PROMPT, [(0.3, 0.7)], layer="dit.attn.0", step=1)
    assert found.dims == ("frame", "point", "xy") and np.allclose(found, match(q, k, [(0.3, 0.7)]))
    with pytest.raises(AttentionError, match="has 14 tokens, which do not stand on 3x2x4"):
        correspond(pipe, None, PROMPT, [(0.3, 0.7)], layer="dit.cross.0", step=1)


def test_heads_that_see_their_frame_or_their_place_are_told_apart() -> None:
    f, h, w = 7, 3, 4
    frame, place = torch.arange(f).repeat_interleave(h * w), torch.arange(h * w).repeat(f)
    one_hot = [20 * torch.nn.functional.one_hot(at, size).float() for at, size in ((frame, f), (place, h * w))]
    padded = [torch.nn.functional.pad(x, (0, h * w - x.shape[-1])) for x in one_hot]
    q = torch.stack(padded).reshape(2, f, h, w, -1)
    table = errors(q, q, torch.randn(2, f, h, w, h * w), queries=f * h * w)
    assert list(table.label.values) == ["spatial", "temporal"]
    assert (table.min("error") < 1e-6).all() and (table.max("error") > 0.05).all()


def test_a_head_that_reads_the_first_frame_alone_keeps_it_under_the_spatial_mask() -> None:
    f, h, w = 7, 3, 4
    k = torch.zeros(1, f, h, w, 8)
    k[:, 0, ..., 0] = 40
    table = errors(torch.ones(1, f, h, w, 8), k, torch.randn(1, f, h, w, 8), queries=f * h * w)
    assert table.sel(error="spatial").item() < 1e-6 and table.sel(error="temporal").item() > 0.01
    assert list(table.label.values) == ["spatial"]


def masked_errors(p: np.ndarray, v: np.ndarray, frames: int, width: float = 2.0) -> np.ndarray:
    """Per head the mean squared error under both masks, in loops: p head n n, v head n d."""
    heads, n, _ = p.shape
    area, found = n // frames, np.zeros((heads, 2))
    order = {0: range(n), 1: [frame * area + place for place in range(area) for frame in range(frames)]}
    for mask, tokens in order.items():
        for row, own in enumerate(tokens):
            seen = [token for at, token in enumerate(tokens) if abs(at - row) < width * area or at < area]
            part = p[:, own, seen]
            out = np.einsum("kj,kjd->kd", part / part.sum(-1, keepdims=True), v[:, seen])
            found[:, mask] += ((out - np.einsum("kj,kjd->kd", p[:, own], v)) ** 2).mean(-1) / n
    return found


def test_heads_of_a_pipeline_are_classified_by_the_output_that_a_mask_leaves(pipe: Foreign) -> None:
    record = pipe.generate(None, PROMPT, capture="dit.attn.1.{pattern,v}@steps=0,branch=cond").record
    p, v = (record[f"dit.attn.1.{side}", 0, "cond"].to_numpy()[0] for side in ("pattern", "v"))
    table = classify(pipe, None, PROMPT, layer="dit.attn.1", step=0, width=0.5)
    expected = masked_errors(p, v, FRAMES, 0.5)
    assert np.allclose(table, expected, rtol=1e-3) and (expected > 1e-6).all()
    assert list(table.label.values) == [("spatial", "temporal")[at] for at in expected.argmin(-1)]
    with pytest.raises(AttentionError, match="its heads have no choice"):
        import wanlab

        tiny = wanlab.load("tiny")
        classify(tiny, torch.zeros(3, tiny.config["size"], tiny.config["size"]), "a red circle", layer="generator.mid.spatial.attn",
                 step=0, steps=1)


def test_a_rollout_is_the_product_of_the_layers(pipe: Foreign) -> None:
    seen = attention.read(pipe, None, PROMPT, maps="dit.attn.*", when={"steps": 0, "branch": "cond"})
    record = pipe.generate(None, PROMPT, capture="dit.attn.*.pattern@steps=0,branch=cond").record
    product = np.eye(24)
    for layer in ("dit.attn.0", "dit.attn.1"):
        product = (0.5 * np.eye(24) + 0.5 * record[f"{layer}.pattern", 0, "cond"].to_numpy()[0].mean(0)) @ product
    maps = [seen.map(layer, 0, "cond") for layer in ("dit.attn.0", "dit.attn.1")]
    for place in ((0, 0, 0), (2, 1, 3)):
        found = rollout(maps, place)
        assert np.allclose(found, product.reshape(*GRID, *GRID)[place], atol=1e-6) and np.isclose(found.sum(), 1, atol=1e-5)


def test_scores_of_known_heat() -> None:
    assert scores(MASK, MASK)["iou"] == 1 and scores(1 - MASK, MASK)["pointing"] == 0
    absent = MASK.copy()
    absent[1] = 0
    assert scores(MASK, absent)["pointing"] == 1                        # a frame without the thing counts nothing
    with pytest.raises(ValueError, match="empty in every frame"):
        scores(MASK, 0 * MASK)
