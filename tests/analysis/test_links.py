"""Bands of residual links: exact sums, octaves where they belong, and exchanges whose answer is known."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from torch import Tensor

from wanlab.analysis import links
from wanlab.analysis.cells import Seen
from wanlab.analysis.contrast import Contrast, ContrastError
from wanlab.pipelines.load import PRESETS, load

PROMPT = "a red circle moves left"


@pytest.fixture(scope="module")
def pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A small cascade with random weights: its detail stage starts as the identity, so the last link is the video."""
    preset = json.loads((PRESETS / "tiny" / "pipeline.json").read_text())
    preset |= {"name": "small", "size": 64, "frames": 4, "sampler": {"steps": 1, "guidance": 1.0}}
    for stage in preset["stages"].values():
        for variant in stage["variants"].values():
            variant.pop("file", None)
            variant["config"] |= {key: size for key, size in (("size", 16), ("output", 64)) if key in variant["config"]}
    folder = tmp_path_factory.mktemp("small")
    (folder / "pipeline.json").write_text(json.dumps(preset))
    return load(folder, init="random")


@pytest.fixture(scope="module")
def contrast(pipe: Any) -> Contrast:
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25
    return Contrast(pipe, pipe.request(images[:1], PROMPT, 0), pipe.request(images[1:], PROMPT, 1))


@pytest.mark.parametrize("size", [(32, 32), (48, 20), (33, 47)])
def test_bands_sum_to_the_video(size: tuple[int, int]) -> None:
    video = torch.rand(2, 3, 3, *size, generator=torch.Generator().manual_seed(0))
    parts = links.bands(video, 2)
    assert len(parts) == 3 and all(part.shape == video.shape for part in parts)
    torch.testing.assert_close(torch.stack(parts).sum(0), video)


@pytest.mark.parametrize(("wavelength", "band"), [(3, 0), (8, 1), (16, 2), (64, 3)])
def test_a_wave_lies_in_the_band_of_its_length(wavelength: int, band: int) -> None:
    wave = torch.cos(2 * math.pi * torch.arange(64) / wavelength).expand(1, 1, 3, 64, 64)
    energy = [float(part.square().mean()) for part in links.bands(wave, 3)]
    assert max(range(4), key=energy.__getitem__) == band


def test_what_is_even_lies_in_the_rest() -> None:
    *fine, rest = links.bands(torch.full((1, 2, 3, 32, 32), 0.7), 3)
    assert max(float(part.abs().max()) for part in fine) < 1e-6 and torch.allclose(rest, torch.tensor(0.7))
    with pytest.raises(ValueError, match=r"3 octaves need frames of at least 16 pixels, got \(8, 8\)"):
        links.bands(torch.zeros(1, 1, 3, 8, 8), 3)


def test_an_exchange_changes_the_last_link_by_the_difference_of_the_bands(contrast: Contrast) -> None:
    site = "upsample.1.residual.skip"
    runs = [contrast.pipe.generate(one.images, PROMPT, one.seeds, capture=site) for one in (contrast.clean, contrast.corrupted)]
    mine, theirs = (links.bands(out.record[site].tensor, 2) for out in runs)
    cells = links.exchanges(contrast, site, levels=2)
    assert [cell.axes["band"] for cell in cells] == ["base", "0", "1", "2"]
    total = torch.zeros_like(runs[0].video)
    for cell, part, other in zip(cells[1:], mine, theirs, strict=True):
        out = contrast.pipe.generate(contrast.clean.images, PROMPT, contrast.clean.seeds, edits=cell.edits)
        change = out.nodes["upsample.1"]["video"] - runs[0].nodes["upsample.1"]["video"]
        torch.testing.assert_close(change, other - part, atol=1e-5, rtol=0)
        total += change
    torch.testing.assert_close(total, sum(theirs) - sum(mine), atol=1e-5, rtol=0)


def test_a_link_exchanged_for_its_own_bands_changes_nothing(pipe: Any) -> None:
    image = torch.rand(1, 3, 64, 64)
    same = Contrast(pipe, pipe.request(image, PROMPT, 0), pipe.request(image, "a blue star grows", 0))
    same.corrupted = same.clean
    table = links.carried(same, at="upsample.1.residual.skip", levels=2)
    assert len(table) == 4 * 3 and table.change.abs().max() < 1e-6


def test_the_table_says_what_each_band_of_each_link_decides(contrast: Contrast) -> None:
    table = links.carried(contrast, {"mean": lambda seen: seen.video.mean((1, 2, 3, 4))}, levels=2)
    assert set(table.site) == {"base", *(f"upsample.{i}.residual.{side}" for i in (0, 1) for side in ("skip", "branch"))}
    change = table.set_index(["site", "band"]).change.abs()
    skip = change["upsample.1.residual.skip"]
    assert skip["2"] > 10 * skip["0"], "the mean of a picture lies in what is left when all detail is taken away"
    assert change["base"].item() == 0
    other = contrast.pipe.generate(contrast.corrupted.images, PROMPT, contrast.corrupted.seeds).video
    assert table.other.to_numpy() == pytest.approx(float(other.mean()))


def test_a_share_is_the_slope_of_changes_on_differences() -> None:
    draw = np.random.default_rng(0)
    base, gap = draw.normal(size=40), draw.normal(size=40)
    parts = [pandas.DataFrame({"site": "link", "band": str(band), "row": range(40), "metric": "texture", "base": base,
                               "other": base + gap, "change": slope * gap + noise * draw.normal(size=40)})
             for band, slope, noise in ((0, 0.7, 0.0), (1, 0.0, 0.5))]
    found = links.shares(pandas.concat(parts)).set_index("band")
    assert found.share["0"] == pytest.approx(0.7) and found.low["0"] == pytest.approx(found.high["0"])
    assert found.low["1"] < 0 < found.high["1"] and set(found.n) == {40}


def test_sites_without_bands_are_told(contrast: Contrast) -> None:
    with pytest.raises(ContrastError, match=r"fusion\.out has axes 'b n c'"):
        links.exchanges(contrast, "fusion.out")


def test_texture_edges_and_flicker_of_known_pictures() -> None:
    def seen(video: Tensor) -> Seen:
        return Seen({"video": video}, None)

    step = torch.zeros(1, 4, 3, 32, 32)
    step[..., 16:] = 1                                      # one sharp edge, nothing else
    noise = 0.1 * torch.rand(1, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)).expand(1, 4, 3, 32, 32)
    assert links.edges(seen(step)) > 0.6 and links.texture(seen(step)) == 0 and links.flicker(seen(step)) == 0
    assert links.texture(seen(step + noise)) > 0.02 and links.flicker(seen(step + noise)) == 0
    beat = step * torch.tensor([0.0, 1, 0, 1]).reshape(1, 4, 1, 1, 1)
    assert links.flicker(seen(beat)) == pytest.approx(0.5)
