"""Placebos of patching: as many numbers, elsewhere, the same for the same seed."""

from __future__ import annotations

from math import prod
from typing import Any

import pytest

import wanlab
from wanlab.analysis import patching, placebo
from wanlab.analysis.contrast import Contrast
from wanlab.core.index import positions
from wanlab.core.select import AXIS_OF


@pytest.fixture(scope="module")
def tiny() -> Any:
    return wanlab.load("tiny")


def numbers(pipe: Any, select: Any) -> float:
    """How many numbers of a site a selection means."""
    site = pipe.sites()[select.at]
    parts = [len(positions(getattr(select, key), site.size(axis), key)) / site.size(axis) for key, axis in AXIS_OF.items()
             if axis in site.axes and getattr(select, key) is not None]
    return prod(site.shape[1:]) * prod(parts)


@pytest.mark.parametrize("like", ["text.{out,mask}", "image.{tokens,pooled,frame}", "generator.*.temporal.attn.z"])
def test_each_draw_has_as_many_numbers_elsewhere_and_repeats_itself(tiny: Any, like: str) -> None:
    found = placebo.places(tiny, like, draws=4, avoid="align.**")
    assert [place.axes["site"] for place in found] == [f"placebo {number}" for number in range(4)]
    again, other = (placebo.places(tiny, like, draws=4, seed=seed, avoid="align.**") for seed in (0, 1))
    assert found == again != other
    stage = like.split(".")[0]
    for place in found:
        names = [select.at for select in place.selects]
        assert len(set(names)) == len(names) and not {name.split(".")[0] for name in names} & {stage, "align", "discriminator"}
        for site, select in zip(tiny.sites(like), place.selects, strict=True):
            assert numbers(tiny, select) == pytest.approx(prod(site.shape[1:]), rel=0.1)


def test_placebos_are_patched_as_any_place(tiny: Any) -> None:
    image = wanlab.World(size=128, split="test", max_objects=1)[10].video[0]
    contrast = Contrast(tiny, *(tiny.request(image, f"a red circle moves {way}", 0, steps=1) for way in ("left", "right")))
    text = "text.{out,mask}"
    places = [*patching.places(tiny, contrast.clean, {"text": text}), *placebo.places(tiny, text, draws=1)]
    found = patching.laid_out(contrast, places).run({"light": lambda seen: seen.video.mean((1, 2, 3, 4))})
    assert set(found.summary("light").site) == {"text", "placebo 0"}


def test_nothing_of_such_a_size_is_told(tiny: Any) -> None:
    with pytest.raises(LookupError, match=r"no placebo for image\.reference: no other site has 49152 numbers"):
        placebo.places(tiny, "image.reference", avoid="{generator,upsample,detail,align,fusion}.**")
