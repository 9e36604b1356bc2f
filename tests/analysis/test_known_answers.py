"""Facts about `tiny` that tracing must find: the text decides the motion, the image decides what moves."""

from __future__ import annotations

from typing import Any

import pytest

import wanlab
from wanlab.analysis import patching, readouts
from wanlab.analysis.contrast import Contrast

PATHS = {"text": "text.{out,mask}", "image": "image.{tokens,pooled,frame,reference}", "placebo": "detail.gan"}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return wanlab.load("tiny")


@pytest.mark.slow
@pytest.mark.parametrize(("clean", "corrupted"), [(10, 11), (5, 0), (9, 6)])
def test_the_text_decides_the_motion_and_the_image_what_moves(pipe: Any, clean: int, corrupted: int) -> None:
    """Two runs that differ in both; one path at a time is taken from the clean run and put into the corrupted one."""
    world = wanlab.World(size=128, split="test", max_objects=1)
    things = [world[index].factors["objects"][0] for index in (clean, corrupted)]
    mine, theirs = (thing["colour"] for thing in things)
    requests = [pipe.request(world[index].video[0], f"a {thing['colour']} {thing['shape']} moves {way}", 0)
                for index, thing, way in zip((clean, corrupted), things, ("left", "right"), strict=True)]
    metrics = {"mine moves left": readouts.displacement(mine, "left"), "theirs moves left": readouts.displacement(theirs, "left"),
               "mine is shown": readouts.shown(mine), "theirs is shown": readouts.shown(theirs)}
    table = patching.grid(Contrast(pipe, *requests), PATHS).run(metrics).table.set_index(["site", "metric"])
    value = table.value
    assert table.base["text", "theirs moves left"] < -0.1 and table.other["text", "mine moves left"] > 0.1
    assert value["text", "theirs moves left"] > 0.1, "the corrupted run's object, with the clean run's motion"
    assert value["text", "theirs is shown"] > 5 * value["text", "mine is shown"]
    assert value["image", "mine moves left"] < -0.1, "the clean run's object, with the corrupted run's motion"
    assert value["image", "mine is shown"] > 5 * value["image", "theirs is shown"]
    for metric in metrics:
        assert abs(value["placebo", metric] - table.base["placebo", metric]) < 0.02, "a place of neither changes neither"
