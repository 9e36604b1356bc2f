"""The head atlas: numbers by hand, labels by the stated thresholds, the card as plain data."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.analysis.foreign import Foreign
from wanlab.analysis import attention
from wanlab.analysis.heads import LABELS, NUMBERS, Thresholds, atlas

NOTHING = dict.fromkeys(NUMBERS, math.nan)


@pytest.mark.parametrize(("numbers", "label"), [
    ({"padding": 0.6, "image": 0.3}, "sink"), ({"first_frame": 0.7, "self_frame": 0.6}, "anchor"), ({"image": 0.5}, "anchor"),
    ({"self_frame": 0.8, "first_frame": 0.2, "radius": 0.05, "distance": 0.4}, "spatial"),
    ({"self_frame": 0.2, "first_frame": 0.2, "radius": 0.05, "distance": 2.0}, "temporal"),
    ({"self_frame": 0.2, "first_frame": 0.2, "radius": 0.5, "distance": 2.0}, "global"), ({}, "global"),
    ({"self_frame": 0.2, "first_frame": 0.2, "distance": 2.0}, "temporal"),     # over frames at its own place: no radius
    ({"self_frame": 0.33, "radius": 0.3, "rest": 0.67}, "register"),            # within a frame, and most of it on the slots
    ({"self_frame": 0.45, "radius": 0.3, "rest": 0.45}, "spatial"),             # it cannot see another frame: not global
])
def test_labels_follow_the_thresholds(numbers: dict[str, float], label: str) -> None:
    assert Thresholds().label({**NOTHING, **numbers}) == label
    assert Thresholds(anchor=0.1).label({**NOTHING, "first_frame": 0.2}) == "anchor"


def test_the_atlas_is_the_mean_over_prompts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    pipe = Foreign()
    prompts = ["a red circle", "blue circle moves left"]
    found = atlas(pipe, [None, None], prompts, [4, 5])
    assert list(found.table["layer"].unique()) == attention.layers(pipe) and len(found.table) == 8
    alone = [attention.read(pipe, None, prompt, seed).statistics().mean(["step", "branch", "row"])
             for prompt, seed in zip(prompts, (4, 5), strict=True)]
    row = found.table.iloc[1]
    for name in ("first_frame", "self_frame", "entropy"):
        values = [float(one[name].sel(layer="dit.attn.0", head=1)) if "head" in one[name].coords
                  else float(one[name].sel(layer="dit.attn.0").isel(head=1)) for one in alone]
        assert math.isclose(row[name], np.mean(values), rel_tol=1e-4)
        assert math.isclose(row[f"{name}_sd"], np.std(values, ddof=1), rel_tol=1e-3)
    card = json.loads(found.save(tmp_path / "card.json").read_text())
    assert card["about"]["n"] == 2 and card["about"]["weights"] == pipe.weights_hash and card["thresholds"]["anchor"] == 0.5
    assert sum(card["labels"].values()) == 8 and set(card["labels"]) == set(LABELS)
    assert card["heads"][0]["padding"] is None and card["heads"][4]["padding"] > 0
    assert found.figure().get_axes()[0].get_yticklabels()[0].get_text() == "dit.attn.0 0"


def test_what_a_layer_cannot_vary_is_no_number_of_its_heads() -> None:
    """Keys of temporal attention are frames at the query's own place; tokens of attention within a frame may be slots."""
    import wanlab

    tiny = wanlab.load("tiny")
    image = torch.rand(3, tiny.config["size"], tiny.config["size"])
    table = atlas(tiny, [image], ["a red circle moves left"], at="generator.up.0.**", steps=1).table.set_index("layer")
    temporal, spatial = (table.loc[f"generator.up.0.{kind}.attn"] for kind in ("temporal", "spatial"))
    assert temporal.radius.isna().all() and temporal.distance.notna().all() and "global" not in set(temporal.label)
    assert spatial.distance.isna().all() and spatial.radius.notna().all()
    assert np.allclose(spatial.self_frame + spatial.rest, 1, atol=1e-4)
    assert list(spatial.label) == ["register" if rest >= 0.5 else "spatial" for rest in spatial.rest]


def test_unequal_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="1 images, 2 prompts, 2 seeds"):
        atlas(Foreign(), [None], ["a", "a"])
