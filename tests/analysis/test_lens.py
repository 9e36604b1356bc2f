"""Lenses against what the sampler predicts, blocks by hand, and maps where the answer is known; on a small cascade and on Wan."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch

from tests.pipelines.conftest import folder, pipe  # noqa: F401
from wanlab.analysis import cells, lens
from wanlab.analysis.lens import LensError
from wanlab.core import Bypass, Scale, Zero

BLOCKS = "generator.{down.*,mid,up.*}.resid_post"


@pytest.fixture
def asked(pipe: Any) -> Any:  # noqa: F811
    return pipe.request(torch.linspace(0.2, 0.8, 64).expand(3, 64, 64), "a red circle moves left", [0, 1], steps=3)


def test_the_last_layer_is_the_models_own_and_earlier_ones_leave_out_what_follows(pipe: Any, asked: Any) -> None:  # noqa: F811
    edits = [Zero("text.out"), Zero("fusion.pooled", steps="1:"), Scale("sampler.video.{noise,latent}", 0.9)]
    seen = lens.blocks(pipe, asked, BLOCKS, steps=[0, 2], edits=edits)
    assert seen.x0.dims == ("step", "layer", "row", "frame", "channel", "h", "w") and seen.x0.sizes["layer"] == 5
    own = lens.predicted(pipe, asked, branch="cond", edits=edits)
    assert np.array_equal(seen.x0.isel(layer=-1), own.sel(step=[0, 2]))
    later = [Bypass(f"{name}@steps=2,branch=cond") for name in ("generator.up.0.resid_post", "generator.up.1.resid_post")]
    by_hand = cells.generate(pipe, asked, edits=[*edits, *later], capture="sampler.video.x0@steps=2,branch=cond").record
    at = seen.x0.sel(step=2, layer="generator.mid.resid_post")
    assert np.array_equal(at, by_hand["sampler.video.x0", 2, "cond"].tensor)
    assert not seen.distance.isel(layer=-1).any() and (seen.distance.isel(layer=0) > 0).all()
    guided = lens.predicted(pipe, asked)
    assert guided.sizes["step"] == 3 and not np.array_equal(guided.sel(step=2), own.sel(step=2))
    assert len(seen.figure().axes) == 2 * 5


def test_maps_are_fitted_to_the_last_block_across_grids(pipe: Any, asked: Any) -> None:  # noqa: F811
    """From one part of a block to the next the map is that of a least-squares solver of the same tokens."""
    last, before = "generator.up.1.resid_post", "generator.up.1.resid_mid"
    tuned = lens.tune(pipe, [asked], BLOCKS)
    assert tuned.error[last] < 1e-4 and all(0 <= error < 1 for error in tuned.error.values())
    assert tuned.maps["generator.mid.resid_post"].shape == (97, 48)
    seen = lens.blocks(pipe, asked, BLOCKS, steps=[1], tuned=tuned)
    assert np.array_equal(seen.x0.isel(layer=-1, step=0), lens.predicted(pipe, asked, branch="cond").sel(step=1))
    record = cells.generate(pipe, asked, capture=[before, last]).record
    exact = lens.tune(pipe, [asked], "generator.up.1.{resid_mid,resid_post}", ridge=0)
    x, y = (record[name].tensor[:, 0].flatten(0, -2).double() for name in (before, last))      # every step of `cond`
    solved = torch.linalg.lstsq(torch.cat([x, torch.ones(len(x), 1)], 1), y).solution
    entry = record[before, 1, "cond"]
    theirs = entry.tensor.double() @ solved[:-1] + solved[-1]
    assert torch.allclose(exact.through(before, entry).tensor, theirs.float(), atol=1e-3)


def test_what_no_lens_looks_through_raises(pipe: Any, asked: Any) -> None:  # noqa: F811
    with pytest.raises(LensError, match=r"generator.mid.resid_mid cannot be bypassed"):
        lens.blocks(pipe, asked, "generator.mid.{resid_mid,resid_post}")
    with pytest.raises(LensError, match=r"image.tokens fires outside the denoising loop"):
        lens.blocks(pipe, asked, "image.tokens")
    for steps in ([], [-1], [0, 0], [3], [0.5]):
        with pytest.raises(LensError, match=rf"steps={re.escape(str(steps))}: .* of 0 to 2, each once"):
            lens.blocks(pipe, asked, BLOCKS, steps=steps)
    with pytest.raises(LensError, match="no requests"):
        lens.tune(pipe, [], BLOCKS)


@pytest.mark.slow
def test_wan_is_looked_through_too() -> None:
    from wanlab.pipelines.wan_parts import random_pipeline
    from wanlab.pipelines.wan_presets import PRESETS

    wan = random_pipeline(PRESETS["wan-random-tiny-t2v"])
    request = wan.request(None, "a red circle", 0, steps=2)
    seen = lens.blocks(wan, request, "dit.blocks.*.resid_post")
    assert np.array_equal(seen.x0.isel(layer=-1), lens.predicted(wan, request, branch="cond"))
    assert (seen.distance.isel(layer=0) > 0).all()
    tuned = lens.tune(wan, [request], "dit.blocks.*.resid_post")
    assert lens.blocks(wan, request, "dit.blocks.*.resid_post", tuned=tuned).x0.sizes == seen.x0.sizes
