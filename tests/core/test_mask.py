"""Masks: arrays, text and files that mean the same, on any grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wanlab.core import Grid, Select, SelectionError, Site, Zero, clock, edit_from_dict, trace
from wanlab.core.clock import Plan
from wanlab.core.mask import Mask, MaskError
from wanlab.core.region import check, region
from wanlab.core.site import Hookable

BOX = np.zeros((8, 8), dtype=bool)
BOX[:4, 2:6] = True


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_arrays_lists_text_and_files_are_one_mask() -> None:
    Image.fromarray(BOX.astype(np.uint8) * 255).save("box.png")
    np.save("box.npy", BOX)
    given = [BOX, BOX.tolist(), BOX.astype(float), torch.tensor(BOX), "00111100*4/00000000*4", "box.png", Path("box.npy")]
    masks = [Mask.of(one) for one in given]
    assert len(set(masks)) == 1 and all(np.array_equal(mask.array, BOX) for mask in masks)
    assert len({Zero("v", mask=one).hash for one in given}) == 1
    assert [str(mask) for mask in masks[4:]] == ["00111100*4/00000000*4", "box.png", "box.npy"]


def test_a_file_is_written_down_by_its_path_and_told_from_another_by_what_it_holds() -> None:
    Image.fromarray(BOX.astype(np.uint8) * 255).save("box.png")
    edit = Zero("v[mask=box.png]@steps=0:2")
    assert str(edit.where) == "v[mask=box.png]@steps=0:2" and repr(edit) == "Zero('v', mask='box.png', steps='0:2')"
    data = edit.to_dict()
    assert data["mask"]["path"] == "box.png" and edit_from_dict(data) == edit
    Image.fromarray(~BOX).save("box.png")
    with pytest.raises(MaskError, match=r"box.png has changed: its sha256 is"):
        edit_from_dict(data)
    assert str(Mask("0", "0110")) == "./0110"       # a path that might be taken for text


def test_a_mask_that_cannot_be_read_says_why() -> None:
    Path("text.png").write_text("not an image")
    np.save("grey.npy", np.full((2, 2), 0.5))
    np.save("objects.npy", np.array([[None]]), allow_pickle=True)
    for value, message in (("txt.png", "nearest: text.png"), ("text.png", "text.png cannot be"), ("grey.npy", "0.5 is neither"),
                           ("objects.npy", "objects.npy cannot be read"), ({"sha256": "0"}, "given as path and sha256")):
        with pytest.raises(MaskError, match=message):
            Mask.of(value)


@pytest.mark.parametrize("size", [(4, 4), (8, 8), (16, 12), (2, 2)])
def test_it_is_resized_to_the_grid_of_the_site(size: tuple[int, int]) -> None:
    by_area = torch.nn.functional.interpolate(torch.tensor(BOX)[None, None].float(), size, mode="area")[0, 0] >= 0.5
    assert torch.equal(Mask.of(BOX).sized(*size), by_area)


def test_tokens_that_stand_on_a_grid_are_limited_by_it() -> None:
    site, x = Site("t", ("b", "f", "n", "c")), torch.zeros(1, 2, 19, 3)         # 4 x 4 tokens, then 3 others
    plan = Plan(grid_of=lambda name: Grid(1, 4, 4) if name == "t" else None)
    part = region(Select("t", mask=BOX), site, x, plan).expand_as(x)[0, 1, :, 0]
    assert part[:16].reshape(4, 4).int().tolist() == [[0, 1, 1, 0], [0, 1, 1, 0], [0] * 4, [0] * 4] and not part[16:].any()
    with pytest.raises(SelectionError, match="u has no picture that a mask could mean: its tokens stand in no known grid"):
        check(Select("u", mask=BOX), Site("u", site.axes), plan)
    with pytest.raises(SelectionError, match="q has axes 'b c' and no axis h"):
        check(Select("q", mask=BOX), Site("q", ("b", "c")), plan)
    with pytest.raises(SelectionError, match="t has 15 tokens, but their grid is said to be 1x4x4"):
        region(Select("t", mask=BOX), site, x[:, :, :15], plan)


class Tokens(Hookable):
    """A site of tokens on a grid."""

    SITES = {"out": "b n c"}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with clock.announce(seeds=range(len(x)), grid_of=lambda name: Grid(1, 2, 2)):
            return self.site("out", x)


def test_an_edit_reaches_where_the_mask_is_in_each_row() -> None:
    module, x = Tokens(), torch.ones(2, 5, 1)
    with trace(module, Zero("out", mask="10/00;00/11")):
        out = module(x)
    assert out[..., 0].tolist() == [[0, 1, 1, 1, 1], [1, 1, 0, 0, 1]]
    with pytest.raises(SelectionError, match="out: the mask has 2 rows and the batch 1"):
        check(Select("out", mask="10/00;00/11"), Site("out", ("b", "n", "c")), Plan(seeds=(0,)))
