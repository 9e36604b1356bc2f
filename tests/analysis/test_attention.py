"""What was read of a run, against its dense maps; on a foreign pipeline with all tokens in one row, and on the shipped cascade."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import xarray

import wanlab
from tests.analysis.foreign import FRAMES, HEIGHT, PICTURE, TEXT, WIDTH, Foreign
from wanlab.analysis import attention
from wanlab.analysis.layout import AttentionError
from wanlab.analysis.map import points
from wanlab.core import BudgetError

PROMPT, NEGATIVE = "a red circle moves left", "blue circle a blue"
GRID = (FRAMES, HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def pipe() -> Foreign:
    torch.manual_seed(0)
    return Foreign()


@pytest.fixture(scope="module")
def seen(pipe: Foreign) -> attention.Attended:
    return attention.read(pipe, None, PROMPT, 3, words=["circle", "red circle"], negative_words=["blue"], maps="dit.**",
                          negative=NEGATIVE)


@pytest.fixture(scope="module")
def dense(pipe: Foreign) -> dict[tuple[str, int, str], np.ndarray]:
    """Of each layer, step and branch the whole map, head n j."""
    record = pipe.generate(None, PROMPT, 3, negative=NEGATIVE, capture="**.pattern").record
    return {(key.site.removesuffix(".pattern"), key.step, key.branch): record.entry(key).tensor[0].numpy()
            for key in record.firings}


def test_layers_are_found_by_glob(pipe: Foreign) -> None:
    assert attention.layers(pipe, "dit.attn.*") == ["dit.attn.0", "dit.attn.1"] and len(attention.layers(pipe)) == 4
    with pytest.raises(AttentionError, match=r"no attention matches 'dit.atn'.*dit.attn.0"):
        attention.layers(pipe, "dit.atn")


def test_reading_leaves_the_video_unless_split_was_said(pipe: Foreign, seen: attention.Attended) -> None:
    plain = pipe.generate(None, PROMPT, 3, negative=NEGATIVE).video
    assert torch.equal(seen.out.video, plain)
    split = attention.read(pipe, None, PROMPT, 3, negative=NEGATIVE, split=True)
    assert not torch.equal(split.out.video, plain) and torch.allclose(split.out.video, plain, atol=1e-4)
    xarray.testing.assert_allclose(split.profile(), seen.profile(), rtol=1e-3)


def test_words_are_sums_of_the_columns_of_their_tokens(seen: attention.Attended, dense: dict[Any, np.ndarray]) -> None:
    words = seen.words()
    assert words.dims == ("step", "branch", "row", "layer", "head", "frame", "h", "w", "word")
    assert words.shape == (2, 1, 1, 2, 2, *GRID, 2) and list(words.word.values) == ["circle", "red circle"]
    for layer in ("dit.cross.0", "dit.cross.1"):
        for step in range(2):
            one = words.sel(layer=layer, step=step, branch="cond").isel(row=0).values
            p = dense[layer, step, "cond"]
            assert np.allclose(one[..., 0], p[..., 2].reshape(2, *GRID), atol=1e-6)
            assert np.allclose(one[..., 1], p[..., 1:3].sum(-1).reshape(2, *GRID), atol=1e-6)
    negative = seen.words(branch="uncond").sel(layer="dit.cross.1", step=0, word="blue").values
    assert np.allclose(negative[0, 0], dense["dit.cross.1", 0, "uncond"][..., [0, 3]].sum(-1).reshape(2, *GRID), atol=1e-6)


def test_profiles_are_means_over_the_queries_of_a_frame(seen: attention.Attended, dense: dict[Any, np.ndarray]) -> None:
    profile = seen.profile()
    assert profile.dims == ("step", "branch", "row", "layer", "head", "frame", "to") and profile.sizes["layer"] == 2
    blocks = dense["dit.attn.1", 1, "uncond"].reshape(2, FRAMES, HEIGHT * WIDTH, FRAMES, HEIGHT * WIDTH)
    found = profile.sel(layer="dit.attn.1", step=1, branch="uncond").isel(row=0).values
    assert np.allclose(found, blocks.sum(-1).mean(2), atol=1e-6)


def test_statistics_are_those_of_the_dense_map(seen: attention.Attended, dense: dict[Any, np.ndarray]) -> None:
    numbers = seen.statistics().isel(row=0).sel(step=1, branch="cond")
    p = dense["dit.attn.0", 1, "cond"]
    t, y, x = (line.reshape(-1) for line in np.meshgrid(*map(np.arange, GRID), indexing="ij"))
    away = abs(t[:, None] - t)
    square = ((y[:, None] - y) ** 2 + (x[:, None] - x) ** 2) / WIDTH**2
    per_frame = (p * away).sum(-1).reshape(2, FRAMES, -1).mean(-1)
    wanted = {"first_frame": p[..., t == 0].sum(-1).mean(-1), "self_frame": (p * (away == 0)).sum(-1).mean(-1),
              "distance": per_frame.mean(-1), "radius": np.sqrt((p * square).sum(-1).mean(-1)),
              "entropy": -(p * np.log(p)).sum(-1).mean(-1)}
    for name, value in wanted.items():
        assert np.allclose(numbers[name].sel(layer="dit.attn.0"), value, atol=1e-5), name
    assert numbers["padding"].sel(layer="dit.attn.0").isnull().all()
    p = dense["dit.cross.0", 1, "cond"]
    said = len(PROMPT.split())
    assert np.allclose(numbers["padding"].sel(layer="dit.cross.0"), p[..., said:TEXT].sum(-1).mean(-1), atol=1e-6)
    assert np.allclose(numbers["image"].sel(layer="dit.cross.0"), p[..., TEXT:].sum(-1).mean(-1), atol=1e-6)


def test_a_kept_map_gives_rows_pairs_columns_and_flows(seen: attention.Attended, dense: dict[Any, np.ndarray]) -> None:
    one, p = seen.map("dit.attn.0", 1, "cond"), dense["dit.attn.0", 1, "cond"].reshape(2, *GRID, *GRID)
    assert one.sides == one.keys == GRID and one.heads == 2
    assert np.allclose(one.row(2, 1, 3), p[:, 2, 1, 3], atol=1e-6)
    assert np.array_equal(one.row(2, 1, 3, heads=[1]), one.row(2, 1, 3)[[1]])
    assert np.allclose(one.pair(0, 2), p[:, 0, :, :, 2], atol=1e-6)
    weights = np.random.default_rng(0).random(GRID).astype(np.float32)
    assert np.allclose(one.flow(weights), np.einsum("fhw,kfhwabc->kabc", weights, p), atol=1e-5)
    cross, p = seen.map("dit.cross.1", 0, "uncond"), dense["dit.cross.1", 0, "uncond"]
    assert np.allclose(cross.columns([1, 4]), p[..., [1, 4]].reshape(2, *GRID, 2), atol=1e-6)
    assert np.allclose(cross.row(1, 0, 2), p.reshape(2, *GRID, -1)[:, 1, 0, 2, TEXT:].reshape(2, 1, 2, PICTURE // 2), atol=1e-6)


def test_a_thing_is_followed_by_mask_or_points(seen: attention.Attended, dense: dict[Any, np.ndarray]) -> None:
    one, p = seen.map("dit.attn.1", 0, "cond"), dense["dit.attn.1", 0, "cond"].reshape(2, *GRID, *GRID)
    mask = np.zeros(GRID, bool)
    mask[0, 0, :2], mask[2, 1, 3] = True, True
    found = one.follow(mask).values
    assert np.allclose(found[:, 0, 2], p[:, 0, 0, :2, 2, 1, 3].mean(1), atol=1e-6)
    assert np.allclose(found[:, 2, 0], p[:, 2, 1, 3, 0, 0, :2].sum(-1), atol=1e-6)
    assert np.isnan(found[:, 1]).all() and np.isnan(found[:, :, 1]).all()
    at = points([(0.1, 0.1), (0.6, 0.9), (1.2, 0.5)], GRID)
    assert np.argwhere(at).tolist() == [[0, 0, 0], [1, 1, 2]]
    with pytest.raises(AttentionError, match="takes a mask of 3x2x4"):
        one.follow(np.zeros((3, 4, 4), bool))


def test_mistakes_are_told_before_the_run(pipe: Foreign, monkeypatch: pytest.MonkeyPatch, seen: attention.Attended) -> None:
    monkeypatch.setattr(Foreign, "_run", lambda *_: pytest.fail("it ran"))
    with pytest.raises(LookupError, match=r"no word 'square'; it has: a red circle moves left"):
        attention.read(pipe, None, PROMPT, words=["square"])
    with pytest.raises(AttentionError, match="there is none: say negative="):
        attention.read(pipe, None, PROMPT, negative_words=["blue"])
    with pytest.raises(AttentionError, match="reads the prompt's words"):
        attention.read(pipe, None, PROMPT, at="dit.attn.*", words=["red"])
    with pytest.raises(BudgetError, match=r"GiB in memory, the budget is"):
        attention.read(pipe, None, PROMPT, maps="dit.attn.*", budget=1000)
    with pytest.raises(AttentionError, match=r"'red' was not read.*read: circle, red circle"):
        seen.words(["red"])
    with pytest.raises(AttentionError, match="say which step and branch"):
        seen.map("dit.attn.0")
    with pytest.raises(AttentionError, match=r"3x2x4 queries .*\(3, 0, 0\) is outside"):
        seen.map("dit.attn.0", 0, "cond").row(3, 0, 0)
    with pytest.raises(AttentionError, match=r"the keys of dit.attn.0 stand in 3 frames \(0 to 2\); 3 is outside"):
        seen.map("dit.attn.0", 0, "cond").pair(0, 3)
    with pytest.raises(AttentionError, match="was not kept"):
        attention.Attended(attention.Reads(pipe, pipe.request(None, PROMPT), ["dit.attn.0"]), seen.record).map("dit.attn.0")


def test_a_map_that_was_edited_is_not_given_as_the_models(pipe: Foreign) -> None:
    seen = attention.read(pipe, None, PROMPT, maps="dit.attn.0", edits=[wanlab.Zero("dit.attn.0.pattern", keys=0, steps=1)])
    assert seen.map("dit.attn.0", 0, "cond").row().sum() == pytest.approx(2, abs=1e-4)
    with pytest.raises(AttentionError, match="an edit put another map in the place"):
        seen.map("dit.attn.0", 1, "cond")


def test_rows_of_a_batch_have_their_own_words(pipe: Foreign) -> None:
    prompts = ["a red circle", "circle left"]
    seen = attention.read(pipe, None, prompts, [0, 1], words=["circle"], each="step", when={"branch": "cond", "steps": 0})
    found = seen.words().sel(layer="dit.cross.0").isel(step=0)
    for row, (prompt, token) in enumerate(zip(prompts, (2, 0), strict=True)):
        alone = pipe.generate(None, prompt, row, capture="dit.cross.0.pattern@steps=0,branch=cond")
        p = alone.record["dit.cross.0.pattern", 0, "cond"].to_numpy()[0, ..., token].reshape(2, *GRID)
        assert np.allclose(found.isel(row=row).squeeze(drop=True).values, p, atol=1e-5)


# ------------------------------------------------------------------------------------------------ the cascade

@pytest.fixture(scope="module")
def tiny() -> tuple[Any, attention.Attended]:
    pipe = wanlab.load("tiny")
    sample = wanlab.World(size=pipe.config["size"], frames=pipe.config["frames"], split="test", max_objects=1)[1]
    seen = attention.read(pipe, sample.video[0], sample.caption, 1, at="generator.**", words=["yellow", "cross"],
                          maps="generator.mid.**", steps=1, guidance=1.0)
    return pipe, seen


def test_the_cascades_layers_stand_on_their_own_grids(tiny: tuple[Any, attention.Attended]) -> None:
    _, seen = tiny
    with pytest.raises(AttentionError, match=r"different grids.*generator.mid.cross.attn 8x4x4.*size="):
        seen.words()
    assert seen.words(size=(8, 8)).shape == (1, 1, 1, 5, 4, 8, 8, 8, 2)
    assert seen.words(at="generator.mid.**").shape == (1, 1, 1, 1, 4, 8, 4, 4, 2)
    profile = seen.profile()
    assert all("temporal" in layer for layer in profile.layer.values) and np.allclose(profile.sum("to"), 1, atol=1e-5)


def test_maps_of_layers_that_see_a_frame_or_a_place_alone_are_empty_elsewhere(tiny: tuple[Any, attention.Attended]) -> None:
    _, seen = tiny
    spatial, temporal = (seen.map(f"generator.mid.{kind}.attn").row(5, 1, 2) for kind in ("spatial", "temporal"))
    assert np.isnan(spatial.isel(frame=[0, 1, 2, 3, 4, 6, 7])).all() and not np.isnan(spatial.isel(frame=5)).any()
    assert not np.isnan(temporal[:, :, 1, 2]).any() and np.isnan(temporal).sum() == 4 * 8 * 15
    assert np.allclose(temporal.sum(["frame", "h", "w"]), 1, atol=1e-5)
    image = seen.map("generator.mid.cross.attn")
    rows = image.rows([(f, h, w) for f in range(8) for h in range(4) for w in range(4)])
    assert rows.shape == (128, 4, 1, 8, 8)
    wanted = seen.statistics()["image"].sel(layer="generator.mid.cross.attn").squeeze()
    for one in (image, seen.map("generator.mid.spatial.attn"), seen.map("generator.mid.temporal.attn")):
        for to in {0, 5} & set(range(one.keys[0])):
            whole = one.rows([(5, h, w) for h in range(4) for w in range(4)]).isel(frame=to).values      # query head to_h to_w
            pair = one.pair(5, to).values
            assert np.allclose(pair, whole.reshape(4, 4, *whole.shape[1:]).transpose(2, 0, 1, 3, 4), atol=1e-6, equal_nan=True)
    assert np.allclose(rows.sum(["frame", "h", "w"]).mean("query"), wanted, atol=1e-5)
