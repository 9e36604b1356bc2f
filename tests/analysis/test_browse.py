"""Browsing: maps, densities and correlations are those that numpy gives of what was captured; labels agree with true masks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import wanlab
from wanlab.analysis import browse, dictionary
from wanlab.core import Dictionary

SITE = "generator.down.1.resid_post"


@pytest.fixture(scope="module")
def tiny() -> Any:
    return wanlab.load("tiny")


@pytest.fixture(scope="module")
def clips() -> Any:
    return wanlab.World(size=128, split="test").batch(range(2))


@pytest.fixture(scope="module")
def held(tiny: Any) -> Dictionary:
    """Directions drawn at random: what is tested is how they are read, not what they find."""
    drawn = torch.nn.functional.normalize(torch.randn(24, 96, generator=torch.Generator().manual_seed(0)), dim=1)
    return Dictionary(drawn, torch.zeros(24), drawn, torch.zeros(96), torch.tensor(1.0), 3, dictionary.about(tiny, SITE))


@pytest.fixture(scope="module")
def seen(tiny: Any, clips: Any, held: Dictionary) -> browse.Browsed:
    requests = (tiny.request(clips.first[row], clips.captions[row], row, steps=2) for row in range(2))
    return browse.read(tiny, held, requests, clips.factors)


def test_numbers_are_those_of_what_was_captured(tiny: Any, clips: Any, held: Dictionary, seen: browse.Browsed) -> None:
    densities, grids, maps = [], [], []
    for row in range(2):
        out = tiny.generate(clips.first[row], clips.captions[row], row, steps=2, capture=SITE)
        start = tiny.grid_of(SITE).start
        a = held.encode(out.record[SITE].tensor.reshape(-1, 8, 19, 96)[:, :, start:start + 16])
        densities.append(a > 0)
        maps.append(a.mean(0).reshape(8, 4, 4, 24))
        grids.append(browse.labels(out.video[0], clips.factors[row], (8, 4, 4)))
    table = seen.table
    assert table.density.to_numpy() == pytest.approx(torch.cat(densities).double().mean((0, 1, 2)).numpy())
    assert torch.allclose(seen.maps.float(), torch.stack(maps).permute(0, 4, 1, 2, 3), atol=2e-2, rtol=2e-3)
    mine, theirs = torch.stack(maps).reshape(-1, 24).numpy(), torch.stack(grids).reshape(-1, len(browse.LABELS)).numpy()
    inside = [np.corrcoef(mine[:, i], theirs[:, 0])[0, 1] if mine[:, i].any() else np.nan for i in range(24)]
    assert seen.correlations.inside.to_numpy() == pytest.approx(inside, abs=1e-5, nan_ok=True)
    absent = next(name for name in browse.LABELS if name.startswith("colour") and not theirs[:, browse.LABELS.index(name)].any())
    assert seen.correlations[absent].isna().all()


def test_the_strongest_patches_come_first_and_are_framed(seen: browse.Browsed) -> None:
    feature = int(seen.table.peak.idxmax())
    found = seen.patches(feature, 5)
    best = found.iloc[0]
    assert best.value == float(seen.maps[:, feature].max()) and found.value.is_monotonic_decreasing
    assert float(seen.maps[int(best["sample"]), feature, int(best.frame), int(best.h), int(best.w)]) == best.value
    assert set(seen.patches(feature, 5, each=True)["sample"]) == {0, 1}
    assert len(seen.figure(feature).axes) == 2 * 2 * 8 + 1, "and the scale"
    assert list(seen.best("inside", 3).columns) == ["inside", "rival"]
    with pytest.raises(LookupError, match="no label 'color red'; nearest: colour red"):
        seen.best("color red")


def test_labels_of_a_true_clip_are_its_masks(clips: Any) -> None:
    for video, masks, factors in zip(clips.video, clips.masks, clips.factors, strict=True):
        told = browse.labels(video, factors, (8, 16, 16))
        true = torch.nn.functional.adaptive_avg_pool2d(masks[:, 1:].sum(1), (16, 16))
        assert np.corrcoef(told[..., 0].flatten(), true.flatten())[0, 1] > 0.9
        thing = factors["objects"][0]
        mine = torch.nn.functional.adaptive_avg_pool2d(masks[:, 1], (16, 16))
        for kind in ("colour", "shape", "motion"):
            assert np.corrcoef(told[..., browse.LABELS.index(f"{kind} {thing[kind]}")].flatten(), mine.flatten())[0, 1] > 0.9


def test_what_cannot_be_browsed_is_told(tiny: Any, clips: Any, held: Dictionary) -> None:
    request = tiny.request(clips.first[:1], clips.captions[0], 0, steps=1)
    with pytest.raises(ValueError, match="of other weights"):
        browse.read(tiny, replace(held, about={**held.about, "weights": "0" * 64}), [request])
    with pytest.raises(ValueError, match="stand nowhere in the picture"):
        browse.read(tiny, held, [request], at="generator.mid.temporal.attn.z")
    with pytest.raises(ValueError, match="no requests"):
        browse.read(tiny, held, [])
    with pytest.raises(LookupError, match="give factors="):
        browse.read(tiny, held, [request]).best("inside")
