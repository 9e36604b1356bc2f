"""What the residual links of a cascade carry: Laplacian bands of one run put into another, link by link and band by band.

    contrast = Contrast(pipe, clean=pipe.request(image, prompt, 0), corrupted=pipe.request(other, prompt, 1))
    table = links.carried(contrast)         # site, band, row, metric, value, base, other, change
    links.shares(table)                     # site, band, metric, share, low, high, n

A link's content is the sum of its bands (Burt & Adelson 1983): band 0 holds the finest details, each next one those of twice the
size, the last what is left. Band k of the clean run is exchanged for that of the corrupted one, and everything after the link runs
again, so a metric's change is what that band of that link decides of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from wanlab.analysis.cells import BASE, Cell, Metric, Seen, beside, run
from wanlab.analysis.contrast import Contrast, ContrastError
from wanlab.analysis.intervals import interval, slope
from wanlab.core import Patch, Record

if TYPE_CHECKING:
    from pandas import DataFrame

LINKS = "upsample.*.residual.{skip,branch}"
EDGES = 0.05            # the share of pixels that are taken for edges


def bands(video: Tensor, levels: int = 3) -> list[Tensor]:
    """`levels` octaves of spatial frequency and the rest, each b f c h w; they sum to the video.

    Raises ValueError where the frames are too small to be halved that often.
    """
    if levels < 1 or min(video.shape[-2:]) < 2 ** (levels + 1):
        least = 2 ** (max(levels, 1) + 1)
        raise ValueError(f"{levels} octaves need frames of at least {least} pixels, got {tuple(video.shape[-2:])}")
    x = rearrange(video, "b f c h w -> (b f) c h w")
    sizes, blurred = [x.shape[-2:]], [x]
    for _ in range(levels):
        x = _halved(x)
        sizes.append(x.shape[-2:])
        blurred.append(_grown(x, sizes[:-1]))
    parts = [fine - coarse for fine, coarse in pairwise(blurred)] + blurred[-1:]
    return [rearrange(part, "(b f) c h w -> b f c h w", b=len(video)) for part in parts]


def _halved(x: Tensor) -> Tensor:
    """Binomial blur (1 3 3 1)/8 in both directions, between every two pixels: where `_grown` takes them to stand."""
    taps = torch.tensor([1.0, 3, 3, 1], dtype=x.dtype, device=x.device) / 8
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 4, 4)
    return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, stride=2, groups=x.shape[1])


def _grown(x: Tensor, sizes: list[torch.Size]) -> Tensor:
    """Back up through the sizes of the pyramid, to the first of them."""
    for size in reversed(sizes):
        x = F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)
    return x


def exchanges(contrast: Contrast, at: str = LINKS, levels: int = 3) -> list[Cell]:
    """The cells: the clean run, and for each link and band one in which that band there is the corrupted run's.

    Raises ContrastError for sites that run more than once or are no videos.
    """
    sites = list(contrast.pipe.sites(at))
    for site in sites:
        if site.clock or site.axes != ("b", "f", "c", "h", "w"):
            raise ContrastError(f"{site.name} has axes '{' '.join(site.axes)}' and clock {site.clock}: "
                                "bands are of videos that pass once")
    mine, theirs = (contrast.record(which, [site.name for site in sites]) for which in ("clean", "corrupted"))
    cells = [Cell(BASE, (), {"site": BASE, "band": BASE})]
    for site in sites:
        entry = mine[site.name]
        parts, others = bands(entry.tensor, levels), bands(theirs[site.name].tensor, levels)
        for band, (part, other) in enumerate(zip(parts, others, strict=True)):
            record = Record()
            record.add(mine.find(site.name)[0], replace(entry, tensor=entry.tensor + (other - part)))
            cells.append(Cell(f"{site.name}-{band}", (Patch(site.name, record=record),), {"site": site.name, "band": str(band)}))
    return cells


def carried(contrast: Contrast, metrics: Mapping[str, Metric] | None = None, at: str = LINKS, levels: int = 3) -> DataFrame:
    """What changes: site, band, cell, row, metric, value, base, other (of the corrupted run), change = value - base. Without
    metrics: `METRICS`."""
    metrics = metrics or METRICS
    table = run(contrast.pipe, contrast.clean, exchanges(contrast, at, levels), metrics)
    request, edits = contrast.run("corrupted")
    there = run(contrast.pipe, request, [Cell("other", edits)], metrics)
    table = beside(table, base=table[table.cell == BASE], other=there)
    return table.assign(change=table.value - table.base)


def shares(table: DataFrame, draws: int = 2000, seed: int = 0, confidence: float = 0.95) -> DataFrame:
    """What part of the difference between two runs a band decides, over the rows of `carried` (of several calls: rows numbered
    on): share = sum of change * gap over sum of gap^2 with gap = other - base, the slope of changes on gaps; 0: none, 1: all.
    low, high: percentile bootstrap over rows. n: rows.

    A band of one picture in another also makes a mixture of both, with edges of both: shares far above 1 say so.
    """
    import pandas

    found = []
    for (site, band, metric), part in table[table.site != BASE].groupby(["site", "band", "metric"], sort=False):
        score = slope(part.change.to_numpy(), (part.other - part.base).to_numpy())
        share, low, high = interval(score, len(part), draws, seed, confidence)
        found.append({"site": site, "band": band, "metric": metric, "share": share, "low": low, "high": high, "n": len(part)})
    return pandas.DataFrame(found)


def texture(seen: Seen) -> Tensor:
    """Mean gradient of the luma where there are no edges (b)."""
    return _gradients(seen.video)[1]


def edges(seen: Seen) -> Tensor:
    """Mean gradient of the luma at the EDGES of each frame, its steepest pixels (b)."""
    return _gradients(seen.video)[0]


def flicker(seen: Seen) -> Tensor:
    """Mean absolute change between neighbouring frames (b)."""
    return seen.video.diff(dim=1).abs().mean((1, 2, 3, 4))


def _gradients(video: Tensor) -> tuple[Tensor, Tensor]:
    luma = torch.einsum("bfchw,c->bfhw", video, torch.tensor([0.299, 0.587, 0.114]).to(video))
    across, down = luma[..., 1:, 1:] - luma[..., 1:, :-1], luma[..., 1:, 1:] - luma[..., :-1, 1:]
    steep = (across.square() + down.square()).sqrt().flatten(2).sort(-1, descending=True).values
    count = max(1, round(EDGES * steep.shape[-1]))
    return steep[..., :count].mean((1, 2)), steep[..., count:].mean((1, 2))


METRICS: dict[str, Metric] = {"texture": texture, "edges": edges, "flicker": flicker}
