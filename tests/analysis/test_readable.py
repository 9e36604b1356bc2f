"""Facts about `tiny` that probes and steering must find: where the motion can be read, where it is decided; not the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import wanlab
from docs import readings
from wanlab.analysis import features, probes
from wanlab.analysis.labels import of_truth, types_of

N, STEERED = 128, 6
BEFORE = ("image.tokens", "fusion.resid_pre")
AFTER = ("fusion.resid_attn", "fusion.out", "generator.mid.resid_post", "generator.up.0.resid_post")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pipe() -> Any:
    return wanlab.load("tiny")


@pytest.fixture(scope="module")
def clips() -> Any:
    return readings.world(N)


def test_on_the_images_way_motion_is_read_behind_the_fusion_alone_and_colour_from_the_image_on(pipe: Any, clips: Any) -> None:
    """One of four ways, at the first of two denoising steps: in the text, where the prompt says it, and not in what the image hands
    on until the two have met. (The image's tokens do not tell the shape: pixels carry that.)"""
    prompts = readings.told(clips, lambda i: readings.WAYS[i % 4])
    requests = (pipe.request(clips.first[i:i + 16], prompts[i:i + 16], list(range(i, i + 16)), steps=2, guidance=1.0)
                for i in range(0, N, 16))
    at = "{text.out,image.tokens,fusion.{resid_pre,resid_attn,out},generator.{mid,up.0}.resid_post}"
    means = features.gather(features.pooled(pipe, requests, at, steps=[0]))
    moves = np.array([readings.WAYS[i % 4] for i in range(N)])
    things = [clip["objects"][0] for clip in clips.factors]
    labels = {"motion": moves, "placebo": np.random.default_rng(0).permutation(moves),
              **{name: np.array([thing[name] for thing in things]) for name in ("shape", "colour")}}
    table = probes.linear(means, labels, types=types_of(labels)).table.set_index(["site", "label"])
    assert set(table.n) == {round(0.3 * N)}
    for site in BEFORE:
        line = table.loc[(site, "motion")]
        assert line.low <= line.permuted and line.accuracy < 0.5, f"the motion is not in {site}"
    for site in ("text.out", *AFTER):
        line = table.loc[(site, "motion")]
        assert line.accuracy > 0.7 and line.low > line.permuted, f"the motion is in {site}"
    for site in ("fusion.out", "generator.mid.resid_post", "generator.up.0.resid_post"):
        assert table.loc[(site, "motion")].selectivity_low > 0.1, f"{site} tells the motion beyond what can be learnt by heart"
    for site in (*BEFORE, *AFTER):
        line = table.loc[(site, "placebo")]
        assert line.low <= line.permuted and line.accuracy < 0.5, f"what is random is not in {site}"
    for site in (*BEFORE, "fusion.out", "generator.mid.resid_post"):
        line = table.loc[(site, "colour")]
        assert line.accuracy > 0.6 and line.low > line.permuted and line.selectivity > 0.2, f"the colour is in {site}"
    line = table.loc[("image.tokens", "shape")]
    assert line.low <= line.permuted and line.accuracy < 0.4, "the shape is not in the image's tokens"


def test_where_an_object_stands_is_told_by_which_token_carries_it_and_not_by_their_mean(pipe: Any, clips: Any) -> None:
    """In the image's tokens, of the first frame; speed, which neither picture nor prompt tells, is read by nobody."""
    def requests() -> Any:
        return (pipe.request(clips.first[i:i + 32], "", list(range(i, i + 32)), steps=1, guidance=1.0) for i in range(0, N, 32))

    labels = of_truth(clips)
    labels = {"x": labels["x"][:, 0], "speed": labels["speed"]}
    tokens, means = (features.gather(blocks) for blocks in (features.stream(pipe, requests(), "image.tokens", rows=64),
                                                            features.pooled(pipe, requests(), "image.tokens")))
    placed = probes.attentive(tokens, labels, where=True, penalties=[0.01]).table.set_index("label")
    mean = probes.linear(means, labels).table.set_index("label")
    assert placed.accuracy["x"] > 0.85 and placed.low["x"] > 0.7 and placed.control["x"] < 0.3
    assert mean.accuracy["x"] < 0.3 and max(mean.accuracy["speed"], placed.accuracy["speed"]) < 0.3


def test_a_direction_of_the_word_turns_the_motion_alone_and_not_every_readable_place_steers() -> None:
    """Left less right at the word's token, added to runs that move up; random directions of equal length; and the same at
    `fusion.said`, where probes read the motion and the model does not."""
    change = readings.steering(STEERED).set_index(["site", "metric", "direction", "dose"]).sort_index()
    word = change.loc[readings.WORD]
    assert word.loc[("left", "steered", 1)].low > 0.15 and word.loc[("left", "steered", -1)].high < -0.15
    for dose in (-1, 1):
        for placebo in ("random 0", "random 1"):
            assert abs(word.loc[("left", placebo, dose)].change) < 0.08, "a random direction of that length"
        for metric in ("growth", "colour", "sharpness"):
            assert abs(word.loc[(metric, "steered", dose)].change) < 0.01, f"{metric} stays as it is"
    assert change.loc["fusion.said"].loc["left"].change.abs().max() < 0.01
