"""Browsing a dictionary: where in which videos its features fire, how often, and what of the known truth they go with.

    seen = browse.read(pipe, held, requests, factors)
    seen.table                          # feature: density, mean, peak, and what it goes with most
    seen.correlations                   # feature x label: inside, colour red, shape circle, motion left, ...
    seen.patches(17)                    # the places where feature 17 is strongest
    seen.figure(17)                     # film strips with its heat
The table and its labels are ours.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from wanlab.analysis.cells import generate
from wanlab.analysis.layout import labelled
from wanlab.analysis.readouts import weights
from wanlab.core import GIB, Dictionary, Select
from wanlab.data.motion import MOTIONS
from wanlab.data.shapes import COLOURS, SHAPES

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

LABELS = ("inside", *(f"colour {one}" for one in COLOURS), *(f"shape {one}" for one in SHAPES),
          *(f"motion {one}" for one in MOTIONS))


def read(pipe: Any, held: Dictionary, requests: Iterable[Any], factors: Sequence[Mapping[str, Any]] | None = None,
         at: str | None = None, budget: int | None = GIB) -> Browsed:
    """Run the requests, one at a time, and read the features of every place of the site.

    factors   of each sample (over all requests, in order) the truth of its clip: labels are then correlated with the features. An
              object's pixels are those of its colour in the video that is made (`readouts.weights`)
    at        the selection to look at; by default the one that the dictionary was trained on

    Holds a map per sample and feature (the mean over steps and branches, half precision) and the video (8 bit).
    Raises ValueError for sites whose tokens stand on no grid, and for a dictionary of other weights.
    """
    at = at or held.about["site"]
    if held.about.get("weights", pipe.weights_hash) != pipe.weights_hash:
        raise ValueError(f"the dictionary is of other weights ({held.about['weights'][:12]}) than this pipeline's "
                         f"({pipe.weights_hash[:12]})")
    tally, maps, prompts = _Tally(held.features), [], []
    videos: list[Tensor] = []
    for request in requests:
        out = generate(pipe, request, capture=[at], budget=budget)
        for row, a in enumerate(_activations(pipe, held, out.record, at)):
            sample = len(videos)
            mean = a.mean(0)
            tally.add(a, mean, None if factors is None else labels(out.video[row], factors[sample], mean.shape[:3]))
            maps.append(rearrange(mean, "f h w m -> m f h w").half())
            videos.append((out.video[row] * 255).round().byte())
            prompts.append(request.prompts[row])
    if not videos:
        raise ValueError("there are no requests to read")
    return Browsed(held, torch.stack(maps), videos, prompts, tally)


def _activations(pipe: Any, held: Dictionary, record: Any, at: str) -> Iterator[Tensor]:
    """Of each row: moment f h w m, moments being steps and branches."""
    site = Select.of(at).at
    array = labelled(record[at], pipe.grid_of(site))
    last = "unit" if "unit" in array.dims else "channel"
    if not {"h", "w"} <= set(array.dims) or "head" in array.dims:
        raise ValueError(f"{site} has axes {', '.join(map(str, array.dims))}: its features stand nowhere in the picture")
    for name in ("step", "branch", "frame"):
        array = array if name in array.dims else array.expand_dims(name)
    values = torch.from_numpy(array.transpose("row", "step", "branch", "frame", "h", "w", last).values)
    for x in values:
        yield torch.cat(list(held.encoded(x.reshape(-1, held.width)))).reshape(-1, *x.shape[2:5], held.features)


def labels(video: Tensor, factors: Mapping[str, Any], sides: Sequence[int]) -> Tensor:
    """How much of each patch shows what: frames h w label, in the order of LABELS; video f 3 h w in [0, 1]. Of a site without
    frames (one for the whole clip) the first frame counts."""
    found = torch.zeros(*sides, len(LABELS))
    frames, h, w = sides
    for thing in factors["objects"]:
        shown = weights(video[None, :frames], thing["colour"])
        part = torch.nn.functional.adaptive_avg_pool2d(shown, (h, w))[0]
        for name in ("inside", *(f"{kind} {thing[kind]}" for kind in ("colour", "shape", "motion"))):
            found[..., LABELS.index(name)] += part
    return found


class _Tally:
    """Sums of which densities and correlations are made."""

    def __init__(self, features: int) -> None:
        self.places = 0
        self.fired, self.total, self.peak = (torch.zeros(features) for _ in range(3))
        self.rows, self.labelled = 0, False
        self.a, self.aa = (torch.zeros(features, dtype=torch.float64) for _ in range(2))
        self.l, self.ll = (torch.zeros(len(LABELS), dtype=torch.float64) for _ in range(2))
        self.al = torch.zeros(features, len(LABELS), dtype=torch.float64)

    def add(self, a: Tensor, mean: Tensor, label: Tensor | None) -> None:
        flat = a.flatten(0, -2)
        self.places += len(flat)
        self.fired, self.total = self.fired + (flat > 0).sum(0), self.total + flat.sum(0)
        self.peak = self.peak.maximum(flat.amax(0))
        if label is not None:
            x, y = mean.flatten(0, -2).double(), label.flatten(0, -2).double()
            self.rows, self.labelled = self.rows + len(x), True
            self.a, self.aa = self.a + x.sum(0), self.aa + (x * x).sum(0)
            self.l, self.ll = self.l + y.sum(0), self.ll + (y * y).sum(0)
            self.al = self.al + x.T @ y

    @property
    def correlations(self) -> np.ndarray:
        """Pearson's, features x labels; NaN where one of the two never changed."""
        both = self.al - self.a[:, None] * self.l / self.rows
        spread = [(squares - one * one / self.rows).clamp(min=0).sqrt() for one, squares in ((self.a, self.aa), (self.l, self.ll))]
        scale = spread[0][:, None] * spread[1]
        return torch.where(scale > 1e-9, both / scale, torch.nan).numpy()


@dataclass(frozen=True)
class Browsed:
    """maps sample feature f h w, the means over steps and branches; videos f c h w, 8 bit, as they were made."""

    held: Dictionary
    maps: Tensor
    videos: list[Tensor]
    prompts: list[str]
    tally: _Tally

    @property
    def correlations(self) -> DataFrame:
        """Of each feature's map with each label, over all patches, frames and samples. LookupError without factors."""
        import pandas

        if not self.tally.labelled:
            raise LookupError("nothing is known of these clips: give factors= to correlate features with the truth")
        return pandas.DataFrame(self.tally.correlations, columns=list(LABELS)).rename_axis("feature")

    @property
    def table(self) -> DataFrame:
        """One line for each feature: density (share of the places where it is not 0), mean where it is not, peak; with factors the
        label that it goes with most, and how much."""
        import pandas

        one = self.tally
        found = pandas.DataFrame({"density": (one.fired / one.places).numpy(), "mean": (one.total / one.fired.clamp(min=1)).numpy(),
                                  "peak": one.peak.numpy()}).rename_axis("feature")
        if one.labelled:
            known = self.correlations.fillna(0.0)
            found["label"], found["correlation"] = known.idxmax(axis=1), known.max(axis=1)
        return found

    def best(self, label: str, n: int = 5) -> DataFrame:
        """The features that go with a label most: correlation, and the largest with any other label of its kind.

        LookupError for a label that there is not.
        """
        known = self.correlations
        if label not in known:
            from wanlab.core.nearest import suggestion

            raise LookupError(f"no label {label!r}{suggestion(label, list(LABELS))}")
        rivals = [one for one in LABELS if one != label and one.split()[0] == label.split()[0]]
        table = known[[label]].assign(rival=known[rivals].max(axis=1) if rivals else np.nan)
        return table.sort_values(label, ascending=False).head(n)

    def patches(self, feature: int, n: int = 10, each: bool = False) -> DataFrame:
        """The n places where a feature is strongest: sample, frame, h, w, value; with `each` one for every sample at most."""
        import pandas

        values = self.maps[:, feature].float()
        flat = values.flatten(1).max(1) if each else None
        places = ((torch.arange(len(values)), *np.unravel_index(flat.indices.numpy(), values.shape[1:])) if flat is not None
                  else np.unravel_index(np.arange(values.numel()), values.shape))
        table = pandas.DataFrame(dict(zip(("sample", "frame", "h", "w"), (np.asarray(one) for one in places), strict=True)))
        table["value"] = (flat.values if flat is not None else values.flatten()).numpy()
        return table.sort_values("value", ascending=False, kind="stable").head(n).reset_index(drop=True)

    def figure(self, feature: int, samples: int = 4, width: float = 5.5) -> Figure:
        """Film strips of the videos in which a feature is strongest, each with its heat below; the strongest patch is framed."""
        from wanlab.plots.patches import patches

        rows = []
        for place in self.patches(feature, samples, each=True).to_dict("records"):
            clip = rearrange(self.videos[int(place["sample"])], "f c h w -> f h w c").numpy() / 255.0
            heat = self.maps[int(place["sample"]), feature].float().numpy()
            rows.append((self.prompts[int(place["sample"])], clip[: len(heat)], heat, (place["frame"], place["h"], place["w"])))
        return patches(rows, width=width)
