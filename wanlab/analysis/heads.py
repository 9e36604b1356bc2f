"""The head atlas: what every attention head does on a few prompts, as numbers, labels, a figure and a card.

Numbers and thresholds are ours.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wanlab.analysis import attention

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

NUMBERS = ("first_frame", "self_frame", "distance", "radius", "entropy", "padding", "image", "rest")
LABELS = ("sink", "register", "anchor", "spatial", "temporal", "global")


@dataclass(frozen=True)
class Thresholds:
    """When a head gets a label; the first that holds, in the order of LABELS, else global.

    A label says something of a head where the head has the choice. Attention within a frame is spatial, and attention of one place
    over the frames is temporal, unless the mass lies elsewhere: there the label repeats what the layer is.
    """

    sink: float = 0.5           # mass on padding, at least
    register: float = 0.5       # mass on tokens that stand nowhere, at least: registers, or slots of a model that reads them
    anchor: float = 0.5         # mass on the first frame or on image tokens, at least
    spatial: float = 0.5        # mass on the query's own frame, at least; or no other frame can be seen
    temporal: float = 0.1       # root mean square distance in space (widths of the frame), at most; the mass lies in other frames

    def label(self, row: dict[str, float]) -> str:
        """The label of a head with these numbers; a number that it does not have is NaN, and holds for nothing."""
        own, over_frames = _known(row["self_frame"]), not np.isnan(row["distance"])
        held = {"sink": row["padding"] >= self.sink, "register": row["rest"] >= self.register,
                "anchor": max(_known(row["first_frame"]), _known(row["image"])) >= self.anchor,
                "spatial": own >= self.spatial or (own >= 0 and not over_frames),
                "temporal": over_frames and own < self.spatial and not row["radius"] > self.temporal}
        return next((label for label in LABELS if held.get(label)), "global")


def _known(value: float) -> float:
    return -np.inf if np.isnan(value) else value


@dataclass
class Atlas:
    """`table` has one row for each head: layer, head, NUMBERS (means over prompts, steps and branches), their spread over prompts
    (`*_sd`), and the label. `about` says what it was made from."""

    table: DataFrame
    thresholds: Thresholds
    about: dict[str, Any]

    def figure(self) -> Figure:
        """Numbers of every head as a heat map, with the labels."""
        from wanlab.plots.attention import heads

        rows = [f"{layer} {head}" for layer, head in zip(self.table["layer"], self.table["head"], strict=True)]
        shown = [name for name in NUMBERS if self.table[name].notna().any()]
        return heads(self.table[shown].to_numpy(float), rows, shown, list(self.table["label"]))

    def card(self) -> dict[str, Any]:
        """All of it as plain data; NaN as None."""
        rows = self.table.astype(object).where(self.table.notna(), None).to_dict("records")
        return {"about": self.about, "thresholds": asdict(self.thresholds), "heads": rows,
                "labels": {label: int((self.table["label"] == label).sum()) for label in LABELS}}

    def save(self, path: str | Path) -> Path:
        """Write the card as JSON (to a temporary name first)."""
        path = Path(path)
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(json.dumps(self.card(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        partial.replace(path)
        return path


def atlas(pipe: Any, images: Sequence[Any], prompts: Sequence[str], seeds: Sequence[int] | None = None, *, at: str = "**",
          thresholds: Thresholds | None = None, **generate: Any) -> Atlas:
    """Run the prompts one by one and describe every head; constant memory, nothing but means is kept.

    images, prompts, seeds: one of each for a sample; at: which attentions. ValueError where their numbers differ.
    """
    from pandas import DataFrame, concat

    seeds = list(range(len(prompts))) if seeds is None else list(seeds)
    if not len(images) == len(prompts) == len(seeds) or not prompts:
        raise ValueError(f"an atlas takes as many of each, and one at least: {len(images)} images, {len(prompts)} prompts, "
                         f"{len(seeds)} seeds")
    thresholds, runs = thresholds or Thresholds(), []
    for image, prompt, seed in zip(images, prompts, seeds, strict=True):
        seen = attention.read(pipe, image, prompt, seed, at=at, each="", **generate)
        runs.append(_table(seen))
    whole = concat(runs)
    columns = [name for name in NUMBERS if name in whole]
    grouped = whole.groupby(["layer", "head"], sort=False)[columns]
    table, spread = grouped.mean().reset_index(), grouped.std().reset_index()
    table = table.reindex(columns=["layer", "head", *NUMBERS])
    for name in columns:
        table[f"{name}_sd"] = spread[name]
    table["label"] = [thresholds.label(row) for row in table[list(NUMBERS)].to_dict("records")]
    about = {"pipeline": pipe.config["name"], "weights": pipe.weights_hash, "at": at, "prompts": list(prompts), "seeds": seeds,
             "n": len(prompts), "steps": generate.get("steps", pipe.config["sampler"]["steps"])}
    return Atlas(DataFrame(table), thresholds, about)


def _table(seen: attention.Attended) -> DataFrame:
    """One row for each head of each layer."""
    statistics = seen.statistics()
    means = statistics.mean([axis for axis in statistics.dims if axis not in ("layer", "head")])
    table = means.to_dataframe().reset_index()
    order = {layer: i for i, layer in enumerate(seen.plan.layers)}
    table = table.dropna(subset=["entropy"])            # layers with fewer heads
    return table.assign(_order=table["layer"].map(order)).sort_values(["_order", "head"]).drop(columns="_order")
