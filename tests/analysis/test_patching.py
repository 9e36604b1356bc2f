"""Patching on a linear pipeline whose effects are known, on the shipped cascade, on Wan; as a loop, shared, and as a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch

import wanlab
from tests.analysis.linear import FRAMES, HEADS, Linear
from wanlab.analysis import cells, patching, paths, readouts
from wanlab.analysis.cells import MetricError, Seen
from wanlab.analysis.contrast import Contrast, ContrastError
from wanlab.core import Noise, Zero

CLEAN, OTHER = "a red circle left", "a red circle right"


def light(seen: Seen) -> torch.Tensor:
    return seen.video.sum((1, 2, 3, 4))


def other_way(seen: Seen) -> torch.Tensor:
    return -2 * light(seen) + 1


@pytest.fixture(scope="module")
def contrast() -> Contrast:
    pipe = Linear()
    return Contrast(pipe, pipe.request(None, CLEAN, [0, 1]), pipe.request(None, OTHER, [0, 1]))


@pytest.mark.parametrize("way", ["denoising", "noising"])
def test_the_word_that_differs_has_all_of_the_effect_and_shares_add_up(contrast: Contrast, way: str) -> None:
    grid = patching.grid(contrast, ["text.out", "net.left", "net.spare"], windows=2, each=["words", "frames"], way=way)
    effects = grid.run({"light": light, "other_way": other_way}).effects
    assert effects.dims == ("metric", "row", "site", "steps", "word", "frame") and effects.sizes["row"] == 2
    assert np.allclose(effects.sel(metric="light"), effects.sel(metric="other_way"), atol=1e-4, equal_nan=True)
    text = effects.sel(metric="light", site="text.out", steps="all", frame="all")
    assert np.allclose(text.sel(word="left"), 1, atol=1e-5) and np.allclose(text.sel(word=["a", "red", "circle"]), 0, atol=1e-5)
    left = effects.sel(metric="light", site="net.left", word="all")
    whole = patching.grid(contrast, ["net.left"], windows=2, way=way).run({"light": light}).effects.sel(metric="light")
    frames = left.sel(frame=[str(one) for one in range(FRAMES)]).sum("frame").sel(steps=["0:1", "1:2"])
    assert np.allclose(frames, whole.sel(site="net.left"), atol=1e-5) and (abs(frames) > 1e-3).all()
    assert not effects.sel(site="net.spare", word="all", frame="0", steps=["0:1", "1:2"]).any()


def test_an_effect_is_what_a_run_by_hand_gives(contrast: Contrast) -> None:
    pipe = contrast.pipe
    found = patching.grid(contrast, {"both": "net.{left,middle}"}, windows=["1"], each=["heads"]).run({"light": light})
    clean, base = (pipe.generate(None, prompt, [0, 1]).video for prompt in (CLEAN, OTHER))
    record = pipe.generate(None, CLEAN, [0, 1], capture="net.{left,middle}").record
    edits = [wanlab.Patch(f"net.{name}", heads=1, steps=1, record=record) for name in ("left", "middle")]
    by_hand = pipe.generate(None, OTHER, [0, 1], edits=edits).video
    row = found.table[(found.table["head"] == "1") & (found.table.row == 1)].iloc[0]
    light_of = [float(one[1].sum()) for one in (by_hand, base, clean)]
    assert [row.value, row.base, row.other] == pytest.approx(light_of) and row.effect == pytest.approx(
        (light_of[0] - light_of[1]) / (light_of[2] - light_of[1]))
    summary = found.summary("light").set_index("head")
    part = found.table[found.table["head"] == "1"]
    change, gap = part.value - part.base, part.other - part.base
    assert summary.loc["1", "effect"] == pytest.approx((change * gap).sum() / (gap * gap).sum())
    assert summary.loc["1", "n"] == 2


def test_rows_that_go_opposite_ways_do_not_cancel_and_what_is_beyond_the_scale_is_shown_to_be() -> None:
    """Half of each gap is closed, but for noise; the gaps are 1 and -1.01, so that their sum is next to nothing."""
    def told(**numbers: list[float]) -> patching.Patched:
        known = {"metric": "way", "base": [0.0, 0.0], "other": [1.0, -1.01], "row": [0, 1]}
        parts = [pandas.DataFrame({**known, "cell": site, "site": site, "steps": "all", "value": values})
                 for site, values in {"base": [0.0, 0.0], **numbers}.items()]
        return patching.Patched(pandas.concat(parts, ignore_index=True))

    found = told(half=[0.6, -0.4], all=[1.0, -1.01]).summary("way").set_index("site")
    assert found.effect["half"] == pytest.approx((0.6 + 0.404) / (1 + 1.0201)) and found.effect["all"] == pytest.approx(1)
    assert found.low["half"] == pytest.approx(0.4 / 1.01) and found.high["half"] == pytest.approx(0.6)
    assert set(found.n) == {2}
    for values, ends in (([0.5, -0.5], "neither"), ([3.0, -3.0], "max"), ([-3.0, 3.0], "min")):
        assert told(half=values).figure("way").axes[-1]._colorbar.extend == ends
    alike = told(half=[0.5, 0.5]).table.assign(other=0.0)
    assert patching.Patched(alike).summary("way")[["effect", "low", "high"]].isna().all(axis=None), "where the runs are alike"


def test_a_path_counts_its_own_weight_alone(contrast: Contrast) -> None:
    """left -> right directly, and left -> right through middle: at the last step both are products of matrices."""
    maps = contrast.pipe.net.maps
    kept = [contrast.record(which, ["net.left@steps=1"])["net.left"].tensor[0] for which in ("clean", "corrupted")]
    change = (kept[1] - kept[0]).squeeze(0).permute(0, 2, 1, 3).flatten(2)
    direct, through = maps["left_right"], maps["left_middle"] @ maps["middle_right"]
    for frozen, way in (("net.middle", direct), ("net.spare", direct + through)):
        found = paths.patch(contrast, {"left": "net.left"}, {"right": "net.right"}, frozen, {"light": light}, steps=1)
        [value] = found.table[found.table.get("sender") == "left"].groupby("row").first().iloc[:1].itertuples()
        expected = 0.3 * (change @ way @ maps["right_out"])[..., :3].sum((1, 2))
        assert value.value - value.base == pytest.approx(float(expected[0]), rel=1e-3)
    plain = paths.patch(contrast, {"left": "net.left"}, {"right": "net.right"}, "net.middle", {"light": light}, steps=1)
    others = [({"left": "net.left", "second": "net.middle"}, {"right": "net.right"}),       # another sender on the way
              ({"left": "net.left"}, {"right": "net.right", "second": "net.middle"}),       # another receiver on the way
              ({"right": "net.left"}, {"right": "net.right"})]                              # of one name
    for senders, receivers in others:
        found = paths.patch(contrast, senders, receivers, "net.middle", {"light": light}, steps=1).table
        pair = found[(found.get("sender") == next(iter(senders))) & (found.get("receiver") == "right")]
        assert pair.value.tolist() == pytest.approx(plain.table[plain.table.sender.notna()].value.tolist(), rel=1e-6)
    with pytest.raises(ContrastError, match=r"net.left is a sender and a receiver"):
        paths.patch(contrast, {"left": "net.left"}, {"too": "net.{left,right}"}, "net.middle", {"light": light})


def test_what_cannot_be_compared_or_measured_raises_before_it_is_used(contrast: Contrast) -> None:
    pipe = contrast.pipe
    request = pipe.request(None, CLEAN, [0, 1])
    for other, what in ((pipe.request(None, OTHER, 0), "rows 2 and 1"),
                        (pipe.request(None, OTHER, [0, 1], steps=3), "steps 2 and 3"),
                        (pipe.request(None, OTHER, [0, 1], guidance=2), "guidance 1.0 and 2.0")):
        with pytest.raises(ContrastError, match=f"differ in geometry: {what}"):
            Contrast(pipe, request, other)
    with pytest.raises(ContrastError, match="are the same"):
        Contrast(pipe, request, request)
    with pytest.raises(ContrastError, match="equally many words"):
        patching.grid(Contrast(pipe, request, pipe.request(None, "red left", [0, 1])), ["text.out"], each=["words"])
    with pytest.raises(ContrastError, match="cannot be divided by 'head'; nearest: heads"):
        patching.grid(contrast, ["net.left"], each=["head"])
    for each, at, nearest in (("words", "net.left", "text.out"), ("keys", "net.left", "text.out"),
                              ("heads", "text.out", "net.left")):
        with pytest.raises(ContrastError, match=rf"{at} is not divided by {each}.*{nearest}"):
            patching.grid(contrast, [at], each=[each])
    cell = [cells.Cell("one")]
    number = "one number for each"
    for metric, message in ((lambda seen: light(seen) * float("nan"), "odd is nan for row 0"), (lambda seen: 1.0, number),
                            (lambda seen: seen.video, number)):
        with pytest.raises(MetricError, match=message):
            cells.run(pipe, request, cell, {"odd": metric})
    with pytest.raises(wanlab.core.UnknownSite, match=r"net.lft"):
        cells.run(pipe, request, [*cell, cells.Cell("two", (Zero("net.lft"),))], {"odd": lambda seen: pytest.fail("it ran")})


def test_last_frames_and_the_second_experts_guidance_are_compared_too() -> None:
    from wanlab.pipelines.wan_parts import random_pipeline
    from wanlab.pipelines.wan_presets import PRESETS

    first, one, other = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    pipe = random_pipeline(PRESETS["wan-random-tiny-flf2v"])
    asked = [pipe.request(first, "a red circle", 0, last_image=last, steps=2) for last in (one, one.clone(), other)]
    assert Contrast(pipe, asked[0], asked[2]).corrupted is asked[2]
    with pytest.raises(ContrastError, match="are the same"):
        Contrast(pipe, asked[0], asked[1])
    pipe = random_pipeline(PRESETS["wan-random-tiny-a14b"])
    with pytest.raises(ContrastError, match=r"differ in geometry: guidance_2 2\.0 and 3\.0"):
        Contrast(pipe, *(pipe.request(first, "a red circle", seed, steps=2, guidance_2=2.0 + seed) for seed in (0, 1)))


@pytest.fixture(scope="module")
def tiny() -> Any:
    return wanlab.load("tiny")


@pytest.fixture(scope="module")
def red_circle() -> torch.Tensor:
    from wanlab.data.procedural import World

    return World(128, 8, split="test", max_objects=1)[10].video[0]


def between(pipe: Any, image: Any, **kwargs: Any) -> Contrast:
    return Contrast(pipe, *(pipe.request(image, f"a red circle moves {way}", 0, steps=2) for way in ("left", "right")), **kwargs)


def test_shared_cells_are_those_of_a_plain_loop_and_edits_of_the_corrupted_run_stay(tiny: Any, red_circle: torch.Tensor) -> None:
    contrast = between(tiny, red_circle, corrupting=Noise("image.tokens", std=2.0))
    grid = patching.grid(contrast, ["text.out", "fusion.pooled", "detail.gan"], windows=2, branch="cond")
    metrics = {"left": readouts.displacement("red", "left"), "real": readouts.realness(tiny)}
    shared, loop = (grid.run(metrics, share=share).table for share in (True, False))
    pandas.testing.assert_frame_equal(shared, loop)
    assert shared[shared.cell == "base"].base.iloc[0] != cells.run(
        tiny, contrast.corrupted, [cells.Cell("plain")], metrics).value.iloc[0]
    early = cells.run(tiny, contrast.corrupted, grid.cells[:2], {"x": lambda seen: seen.outputs["motion"].mean((1, 2, 3))},
                      read="denoise")
    assert len(early) == 2 and early.value.is_unique
    with pytest.raises(LookupError, match="no node 'denoize'; nearest: denoise"):
        grid.run(metrics, read="denoize")


def test_words_stand_at_the_same_tokens_in_every_row_of_both_runs_or_it_raises() -> None:
    """The article's text stage cuts a word that is not in its vocabulary into pieces."""
    pipe = wanlab.load("article-random-tiny", init="random")

    def against(*prompts: str) -> Contrast:
        rows, clean = list(range(len(prompts))), ["a red circle moves left"] * len(prompts)
        image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
        return Contrast(pipe, *(pipe.request(image, told, rows, steps=1) for told in (clean, prompts)))

    whole = against("a red circle moves right", "a red circle moves up")
    [left] = [place for place in patching.places(pipe, whole.clean, ["text.out"], each=["words"]) if place.axes["word"] == "left"]
    assert patching.laid_out(whole, [left]).cells[1].edits[0].where.keys == left.selects[0].keys
    parted = against("a red circle moves right", "a red circle extraordinarily left")
    for made in (lambda: patching.grid(parted, ["text.out"], each=["words"]), lambda: patching.laid_out(parted, [left])):
        with pytest.raises(ContrastError, match=r"'moves' .*tokens \[3\].*'extraordinarily' .*row 1.*tokens \[4, 5, 6"):
            made()
    patching.grid(parted, ["text.out"], each=["keys"])


def test_a_word_that_stands_there_twice_is_compared_place_by_place(contrast: Contrast) -> None:
    pipe = contrast.pipe
    twice = Contrast(pipe, pipe.request(None, "a red a left", 0), pipe.request(None, "a red circle left", 0))
    grid = patching.grid(twice, ["text.out"], each=["words"])
    assert [cell.axes["word"] for cell in grid.cells[1:]] == ["a", "red", "left"] and grid.places[0].selects[0].keys == (0, 2)


def test_one_site_can_be_divided_in_two_ways_in_one_table(contrast: Contrast) -> None:
    found = [place for each in (["frames"], ["heads"], [], ["frames", "heads"])
             for place in patching.places(contrast.pipe, contrast.clean, ["net.left"], 2, each)]
    made = patching.laid_out(contrast, found).run({"light": light})
    assert {"net.left+0-1+frame-0", "net.left+0-1+head-0", "net.left+0-1", "net.left+0-1+frame-2+head-1"} < set(made.table.cell)
    whole = patching.grid(contrast, ["net.left"], windows=2, each=["heads"]).run({"light": light}).effects
    heads = made.effects.sel(frame="all").sel(head=["0", "1"])
    assert np.allclose(heads, whole.transpose(*heads.dims)) and len(made.summary("light")) == len(found)
    assert made.figure("light").axes[0].images[0].get_array().shape == (1 + FRAMES + HEADS + FRAMES * HEADS, 2)


def test_one_table_goes_from_the_token_to_the_link_of_super_resolution_and_to_the_discriminators_logit(
        tiny: Any, red_circle: torch.Tensor) -> None:
    contrast, link = between(tiny, red_circle), "upsample.1.residual.skip"
    grid = patching.grid(contrast, {"left": "text.out[keys=4]", "link": link})
    found = grid.run({"moved left": readouts.displacement("red", "left"), "logit": readouts.realness(tiny)}).table
    assert set(found.site.dropna()) == {"left", "link"} and set(found[found.site == "link"].metric) == {"moved left", "logit"}
    [patched] = [cell for cell in grid.cells if cell.name == "link"]
    logit = tiny.judge(cells.generate(tiny, contrast.corrupted, edits=patched.edits).video).mean((1, 2, 3))
    row = found.set_index(["cell", "metric"])
    assert row.value["link", "logit"] == float(logit) != row.base["link", "logit"] and row.effect["left", "moved left"] > 0.9


@pytest.mark.slow
def test_a_study_makes_the_same_cells_and_its_folder_is_read_as_the_same_effects(
        tiny: Any, red_circle: torch.Tensor, tmp_path: Path) -> None:
    from PIL import Image

    from wanlab.measure import Batch, resolve
    from wanlab.runs import patches
    from wanlab.runs.files import RunFolderError, to_yaml
    from wanlab.runs.study import run_study

    Image.fromarray((red_circle * 255).round().byte().permute(1, 2, 0).numpy()).save(tmp_path / "first.png")
    contrast = between(tiny, tmp_path / "first.png")
    grid = patching.grid(contrast, ["text.out", "detail.gan"], each=["words", "frames"], way="noising",
                         save=tmp_path / "other.safetensors")

    def studied(name: str, way: str, metrics: list[str], **cells: Any) -> Path:
        data = {"kind": "image", "path": str(tmp_path / "first.png"), "prompts": [f"a red circle moves {way}"]}
        study = {"name": name, "data": data, "sampler": {"steps": 2}, "baseline": "base", "metrics": metrics, "cells": cells}
        (tmp_path / f"{name}.yaml").write_text(to_yaml(study))
        return run_study(tmp_path / f"{name}.yaml", tmp_path / name, device="cpu", report=False)[0]

    root = studied("patches", "left", ["flicker"], **cells.study_cells(grid.cells))
    other = studied("other", "right", ["flicker"], base=None, zero={"edits": [{"kind": "zero", "at": "detail.gan"}]})
    [flicker] = resolve(["flicker"])
    table = grid.run({"flicker": lambda seen: flicker.score(Batch(seen.video))})
    found = patches.patched(root, other)
    pandas.testing.assert_frame_equal(found.table[table.table.columns], table.table)
    assert found.effects.equals(table.effects) and found.summary("flicker").effect.equals(table.summary("flicker").effect)
    assert abs(found.effects.sel(site="text.out", word="left", frame="all").item() - 1) < 0.05
    with pytest.raises(RunFolderError, match="the other run has no flicker of row 0"):
        patches.patched(root, table.table[table.table.metric == "none"])


def test_wan_is_patched_through_the_same_face() -> None:
    from wanlab.pipelines.wan_parts import random_pipeline
    from wanlab.pipelines.wan_presets import PRESETS

    pipe = random_pipeline(PRESETS["wan-random-tiny-t2v"])
    contrast = Contrast(pipe, *(pipe.request(None, f"a red circle moves {way}", 0, steps=2) for way in ("left", "right")))
    grid = patching.grid(contrast, ["text.out", "dit.blocks.0.resid_post"], windows=2, branch="cond")
    effects = grid.run({"like": readouts.likeness(pipe.generate(None, "a red circle moves left", 0, steps=2).video)}).effects
    assert effects.sel(site="text.out", steps="all").item() == pytest.approx(1, abs=1e-4)
    assert abs(effects.sel(site="dit.blocks.0.resid_post", steps="1:2").item()) > 1e-3
    with pytest.raises(ContrastError, match=r"text.out is not divided by words.* dit.text"):
        patching.grid(contrast, ["text.out"], each=["words"])
