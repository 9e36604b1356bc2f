"""Activation patching, or causal tracing: which places of which run decide what another run shows.

    contrast = Contrast(pipe, clean, corrupted)
    grid = patching.grid(contrast, ["text.out", "generator.*.resid_post", "upsample.*.residual.skip"], windows=4, each=["words"])
    found = grid.run({"left": readouts.displacement("red", "left")})
    found.table         # site, steps, word, ..., row, metric, value, effect
    found.effects       # the same as an array

Denoising: the corrupted run, with the clean run's values at one place (Meng et al. 2022, arXiv 2202.05262); noising: the clean run
with the corrupted one's. Effects are shares of the way between the two, (value - base) / (other - base): 0 where the place
changes nothing, 1 where it is enough (denoising) or needed (noising); see Zhang & Nanda 2024, arXiv 2309.16042.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wanlab.analysis.cells import BASE, Cell, Metric, beside, run
from wanlab.analysis.contrast import Contrast, ContrastError, kept
from wanlab.analysis.intervals import interval, slope
from wanlab.analysis.layout import SINGLE
from wanlab.core import Patch, Select, Site
from wanlab.core.nearest import suggestion
from wanlab.core.pattern import matches
from wanlab.core.select import AXIS_OF
from wanlab.core.source import Source

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame
    from xarray import DataArray

WAYS = {"denoising": ("corrupted", "clean"), "noising": ("clean", "corrupted")}        # base, and what is put into it
EVERY = "all"       # the label of a place that was not divided
NUMBERED = {name: SINGLE[name] for name in ("frames", "heads", "tokens", "keys", "slots")}
DIVIDED = {**NUMBERED, "words": "word"}


def _label(axis: str, value: str) -> str:
    """Where a place stands along an axis, so that it is told apart from others: "frame 0", which "head 0" is not."""
    return f"{axis} {value}" if axis in NUMBERED.values() else value


@dataclass(frozen=True)
class Place:
    """One place to patch: selections that are patched together, and its labels."""

    selects: tuple[Select, ...]
    axes: Mapping[str, str]

    @property
    def name(self) -> str:
        """As a name of a cell, which a study takes too: "generator.mid.attn.z+0-4+head-2"."""
        parts = (_label(key, value) for key, value in self.axes.items() if key == "site" or value != EVERY)
        return "+".join(parts).replace(":", "-").replace(" ", "-")


def places(pipe: Any, request: Any, at: Sequence[str] | Mapping[str, str], windows: int | Sequence[str] = 1,
           each: Sequence[str] = (), branch: str | None = None) -> list[Place]:
    """The places that a question asks about.

    at        globs or selections, each site a place of its own; a mapping of names to globs: all sites of a glob together
    windows   of the denoising steps: so many of equal length, or their selections ("0:4"); sites outside the loop have none
    each      axes of which every position is a place of its own, where a site has them: "frames", "heads", "tokens", "keys",
              "slots", or "words" of the request's first prompt, at sites that carry it

    Raises ContrastError for an axis that there is not, and for one that none of the sites has.
    """
    groups = list(_groups(pipe, at))
    for one in each:
        if one not in DIVIDED:
            raise ContrastError(f"places cannot be divided by {one!r}{suggestion(one, list(DIVIDED))}")
        if not any(_has(pipe, one, sites) for _, _, sites in groups):
            able = [site.name for site in pipe.sites() if not site.derived and _has(pipe, one, [site])]
            asked = groups[0][2][0].name
            raise ContrastError(f"{asked} is not divided by {one}, nor is another of the sites that are asked for"
                                f"{suggestion(asked, able)}")
    found = []
    for name, select, sites in groups:
        limits = {"branch": branch} if branch and all("branch" in (site.clock or ()) for site in sites) else {}
        timed = all("step" in (site.clock or ()) for site in sites)
        parts = [_positions(pipe, request, one, sites) for one in each]
        times = _windows(windows, request.steps) if timed else [None]
        for steps, *chosen in product(times, *parts):
            axes = {"site": name, "steps": EVERY if steps is None else steps}
            axes |= {DIVIDED[one]: label for one, (label, _) in zip(each, chosen, strict=True)}
            told = {key: value for _, limit in chosen for key, value in limit.items()}
            told |= limits | ({} if steps is None else {"steps": steps})
            found.append(Place(tuple(replace(select, at=site.name, **told) for site in sites), axes))
    return found


def _groups(pipe: Any, at: Sequence[str] | Mapping[str, str]) -> Iterator[tuple[str, Select, list[Site]]]:
    named = at.items() if isinstance(at, Mapping) else ((None, one) for one in ([at] if isinstance(at, str) else at))
    for name, one in named:
        select = Select.of(one)
        sites = [site for site in pipe.sites(select.at) if not site.derived]
        if not sites:
            raise ContrastError(f"{one!r} names derived sites alone, from which nothing is computed")
        if name is not None:
            yield name, select, sites
        else:
            yield from ((site.name, select, [site]) for site in sites)


def _windows(windows: int | Sequence[str], steps: int) -> list[str | None]:
    if not isinstance(windows, int):
        return list(windows)
    if windows == 1:
        return [None]
    if not 1 <= windows <= steps:
        raise ContrastError(f"{steps} steps cannot be divided into {windows} windows")
    ends = [round(i * steps / windows) for i in range(windows + 1)]
    return [f"{start}:{stop}" for start, stop in pairwise(ends)]


def _has(pipe: Any, what: str, sites: Sequence[Site]) -> bool:
    """Whether all of some sites can be divided by an axis, or by the words of the prompt."""
    if what == "words":
        return all(matches(pipe.text_sites, site.name) for site in sites)
    return all(AXIS_OF[what] in site.axes for site in sites)


def _positions(pipe: Any, request: Any, what: str, sites: Sequence[Site]) -> list[tuple[str, dict[str, Any]]]:
    """The positions by which sites are divided: a label and a limit for each; one for all where the sites have no such axis."""
    if not _has(pipe, what, sites):
        return [(EVERY, {})]
    if what == "words":
        key = "keys" if "j" in sites[0].axes else "tokens"
        return [(word, {key: list(pipe.tokens_of(request, word, 0))}) for word in dict.fromkeys(pipe.words_of(request, 0))]
    sizes = {site.size(AXIS_OF[what]) for site in sites}
    if len(sizes) > 1:
        names = ", ".join(site.name for site in sites[:3])
        raise ContrastError(f"{names} have different numbers of {what}: {', '.join(sorted(map(str, sizes)))}")
    [size] = sizes
    return [(str(one), {what: one}) for one in range(size or 0)]


@dataclass(frozen=True)
class Grid:
    """Places to patch, as cells over the base run."""

    contrast: Contrast
    places: Sequence[Place]
    way: str
    source: Source

    @property
    def cells(self) -> list[Cell]:
        """The base, and a cell for each place."""
        _, edits = self.contrast.run(WAYS[self.way][0])
        return [Cell(BASE, edits), *(Cell(place.name, (*edits, *self.patches(place)), place.axes) for place in self.places)]

    def patches(self, place: Place) -> list[Patch]:
        """The edits of a place."""
        return [Patch(str(select), record=self.source) for select in place.selects]

    def run(self, metrics: Mapping[str, Metric], **how: Any) -> Patched:
        """Run all cells (`cells.run` says how) and the other run; effects are shares of the way to it."""
        base, other = WAYS[self.way]
        table = run(self.contrast.pipe, self.contrast.run(base)[0], self.cells, metrics, **how)
        request, edits = self.contrast.run(other)
        return effects(table, run(self.contrast.pipe, request, [Cell(other, edits)], metrics,
                                  **{key: value for key, value in how.items() if key in ("read", "capture")}))


def grid(contrast: Contrast, at: Sequence[str] | Mapping[str, str], *, windows: int | Sequence[str] = 1, each: Sequence[str] = (),
         way: str = "denoising", branch: str | None = None, save: str | Path | None = None) -> Grid:
    """Record the run that values are taken from, and lay out the cells; `at`, `windows`, `each` as in `places`.

    save: where the record is kept (.safetensors), so that the cells can be written down (`cells.study_cells`).
    Raises ContrastError for a way or division that does not exist, and where words are asked for and the prompts' do not align.
    """
    return laid_out(contrast, places(contrast.pipe, contrast.clean, at, windows, each, branch), way, save)


def laid_out(contrast: Contrast, found: Sequence[Place], way: str = "denoising", save: str | Path | None = None) -> Grid:
    """The grid of some places, of several calls of `places` for example; recorded in one run.

    Raises as `grid`, ContrastError for another way.
    """
    if way not in WAYS:
        raise ContrastError(f"no way {way!r}{suggestion(way, list(WAYS))}")
    if any("word" in place.axes for place in found):
        _aligned(contrast)
    names = dict.fromkeys(select.at for place in found for select in place.selects)
    whole = dict.fromkeys((axis for place in found for axis in place.axes), EVERY)     # a place that an axis does not divide
    found = [replace(place, axes=whole | dict(place.axes)) for place in found]
    return Grid(contrast, found, way, kept(contrast.record(WAYS[way][1], names), save))


def _aligned(contrast: Contrast) -> None:
    """Words are patched by position: in all rows of both runs each word has to have the tokens that it has in the clean prompt."""
    if len(set(contrast.clean.prompts)) > 1:
        raise ContrastError("words are those of the clean prompt: give one, the same in all rows")
    mine = _standing(contrast, contrast.clean, 0)
    for row in range(len(contrast.corrupted)):
        theirs = _standing(contrast, contrast.corrupted, row)
        for (word, at), (other, there) in zip(mine, theirs):
            if at != there:
                raise ContrastError(f"words are patched by their position: {word!r} of the clean prompt has the tokens {at}, "
                                    f"{other!r} in its place (row {row}) the tokens {there}; take a word of as many pieces, or "
                                    "divide by keys or tokens")
        if len(theirs) != len(mine):
            raise ContrastError("words are patched by their position: give equally many words in both runs "
                                f"(row {row} has {len(mine)} and {len(theirs)})")


def _standing(contrast: Contrast, request: Any, row: int) -> list[tuple[str, list[int]]]:
    """The words of a prompt and the positions of the tokens of each; where a word stands there again, of each place its own."""
    words, found = contrast.pipe.words_of(request, row), []
    before, often = Counter[str](), Counter(word.lower() for word in words)
    for word in words:
        at = list(contrast.pipe.tokens_of(request, word, row))
        size, start = len(at) // often[word.lower()], before[word.lower()]
        found.append((word, at[start * size:(start + 1) * size]))
        before[word.lower()] += 1
    return found


@dataclass(frozen=True)
class Patched:
    """table: for every cell, row and metric the axes of the place, value, base, other, effect."""

    table: DataFrame

    @property
    def effects(self) -> DataArray:
        """Effects as an array: metric, row, site, steps, and what else places were divided by; NaN where there is no such place."""
        table = self.table[self.table.cell != BASE]
        axes = _axes(table)
        orders = {name: list(dict.fromkeys(table[name])) for name in axes}
        array = table.set_index(["metric", "row", *axes])["effect"].to_xarray()
        return array.reindex(orders)

    def summary(self, metric: str) -> DataFrame:
        """Each place over the rows: effect = sum of change * gap over sum of gap^2, where change = value - base and gap = other -
        base: the slope of changes on gaps, in which rows that go opposite ways do not cancel. low, high: its 95 % bootstrap
        interval over rows (NaN for one row, and where the two runs do not differ). n: rows."""
        import pandas

        table = self.table[(self.table.metric == metric) & (self.table.cell != BASE)]
        axes, found = ["cell", *_axes(table)], []
        for place, part in table.groupby(axes, sort=False, dropna=False):
            effect, low, high = interval(slope((part.value - part.base).to_numpy(), (part.other - part.base).to_numpy()), len(part))
            found.append({**dict(zip(axes, place, strict=True)), "effect": effect, "low": low, "high": high, "n": len(part)})
        return pandas.DataFrame(found)

    def figure(self, *metrics: str, columns: str = "steps", note: str = "", width: float = 5.5) -> Figure:
        """Effects over the rows (`summary`) as tiles, one panel a metric; `columns` is one axis of the places, the others are rows.
        Beyond -1 and 1 colours stay as they are, and the scale says so by its pointed ends."""
        from wanlab.plots.tiles import tiles

        panels = {}
        for metric in metrics or tuple(dict.fromkeys(self.table.metric)):
            summary = self.summary(metric)
            across = list(dict.fromkeys(summary[columns]))
            others = [name for name in summary.columns if name not in ("cell", columns, "effect", "low", "high", "n")]
            names = [" · ".join(_label(axis, value) for axis, value in zip(others, row, strict=True) if value != EVERY)
                     for row in summary[others].itertuples(index=False)]
            down = list(dict.fromkeys(names))
            panels[metric] = np.full((len(down), len(across)), np.nan)
            for name, place, effect in zip(names, summary[columns], summary.effect, strict=True):
                panels[metric][down.index(name), across.index(place)] = effect
        told = f"n = {self.table.row.nunique()}; 0: as the base, 1: as the other run" + (f"; {note}" if note else "")
        return tiles(panels, down, across, "effect", across=columns, limit=1.0, note=told, width=width)


def effects(table: DataFrame, other: DataFrame) -> Patched:
    """The table of all cells with base, other and effect of each (NaN where the two runs do not differ in a metric)."""
    table = beside(table, base=table[table.cell == BASE], other=other)
    gap = table.other - table.base
    return Patched(table.assign(effect=(table.value - table.base) / gap.where(gap != 0, np.nan)))


def _axes(table: DataFrame) -> list[str]:
    """The columns by which places are told apart."""
    return [name for name in table.columns if name not in ("cell", "row", "metric", "value", "base", "other", "effect")]
