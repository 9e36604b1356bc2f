"""`wanlab.explore`: the maps of the model, from queries and keys or from patterns; without any, what to capture."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import wanlab
from tests.analysis.foreign import FRAMES, HEIGHT, WIDTH, Foreign
from wanlab.analysis import attention
from wanlab.analysis.layout import AttentionError
from wanlab.plots.explorer import Explorer
from wanlab.plots.views import View

PROMPT, GRID = "a red circle moves left a", (FRAMES, HEIGHT, WIDTH)
LAZY, DENSE = "**.{q,k,lse,bias}", "**.pattern"


@pytest.fixture(scope="module")
def pipe() -> Foreign:
    torch.manual_seed(0)
    return Foreign()


@pytest.fixture(scope="module")
def dense(pipe: Foreign) -> Any:
    return pipe.generate(None, [PROMPT, "a blue circle"], [3, 4], capture=DENSE)


@pytest.mark.parametrize("capture", [LAZY, DENSE])
def test_maps_are_those_of_the_model(pipe: Foreign, dense: Any, capture: str) -> None:
    explorer = wanlab.explore(pipe.generate(None, [PROMPT, "a blue circle"], [3, 4], capture=capture), row=1)
    assert [layer.name for layer in explorer.views.layers] == attention.layers(pipe)
    whole = dense.record["dit.attn.1.pattern", 1, "uncond"].tensor[1].numpy()
    heat = explorer.views.heat(View("dit.attn.1", 1, "uncond", None, (2, 1, 3)))
    assert np.allclose(heat, whole[:, (2 * HEIGHT + 1) * WIDTH + 3].reshape(-1, *GRID), atol=1e-6)
    assert np.array_equal(explorer.views.heat(View("dit.attn.1", 1, "uncond", 1, (2, 1, 3))), heat[1:])
    cross = dense.record["dit.cross.0.pattern", 0, "cond"].tensor[1].numpy()
    heat = explorer.views.heat(View("dit.cross.0", 0, "cond", None, None, "blue"))
    assert np.allclose(heat, cross[..., 1].reshape(-1, *GRID), atol=1e-6)
    assert np.array_equal(explorer.views.heat(View("dit.cross.0", 0, "cond", 0, None, "blue")), heat[:1])
    assert explorer.views.words["cond"] == ["a", "blue", "circle"] and explorer.views.words["uncond"] == []


def test_a_word_that_stands_twice_is_one_chip_and_one_map(dense: Any) -> None:
    views = wanlab.explore(dense).views
    cross = dense.record["dit.cross.0.pattern", 0, "cond"].tensor[0].numpy()
    assert views.words["cond"] == ["a", "red", "circle", "moves", "left"]
    assert np.allclose(views.heat(View("dit.cross.0", 0, "cond", word="a")), cross[..., [0, 5]].sum(-1).reshape(-1, *GRID),
                       atol=1e-6)


def test_image_keys_are_said_to_be_no_frames(dense: Any) -> None:
    layers = wanlab.explore(dense).views.named
    assert layers["dit.cross.0"].image and layers["dit.cross.0"].keys == (1, 2, 3) and layers["dit.cross.0"].words
    assert not layers["dit.attn.0"].image and layers["dit.attn.0"].keys == GRID and not layers["dit.attn.0"].words


def test_steps_and_branches_are_those_that_were_kept(pipe: Foreign) -> None:
    out = pipe.generate(None, PROMPT, 3, capture="dit.attn.0.pattern@steps=1,branch=uncond")
    (layer,) = wanlab.explore(out).views.layers
    assert (layer.steps, layer.branches) == ((1,), ("uncond",))


def test_what_was_read_can_be_explored(pipe: Foreign) -> None:
    explorer = wanlab.explore(attention.read(pipe, None, PROMPT, 3, maps="dit.attn.1"))
    assert isinstance(explorer, Explorer) and explorer.view.layer == "dit.attn.1"


def test_without_maps_the_capture_is_told(pipe: Foreign) -> None:
    with pytest.raises(AttentionError, match=r'kept no attention map .*capture="\*\*.\{q,k,lse,bias\}".*dit.attn.0'):
        wanlab.explore(pipe.generate(None, PROMPT, 3))
    out = pipe.generate(None, PROMPT, 3, capture="dit.attn.0.pattern[tokens=0:3]")
    with pytest.raises(AttentionError, match=r"dit\.attn\.0\.pattern was captured in part"):
        wanlab.explore(out)
    with pytest.raises(AttentionError, match=r"there are 1 rows \(0 to 0\), no row 1"):
        wanlab.explore(pipe.generate(None, PROMPT, 3, capture=LAZY), row=1)
    with pytest.raises(AttentionError, match=r"what pipe\.generate or attention.read gave back"):
        wanlab.explore("out.mp4")
