"""Writing all files of a report. Each is made from the run folder alone, so a report can be made again at any time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import write, write_text
from ..spec import Study
from ..stats import Result
from ..store import CellFolder, RunFolder
from .numbers import headline, in_order
from .page import render
from .tables import tex, wide_csv

TRUTH = "true clip"


def write_all(folder: RunFolder, study: Study, cells: Mapping[str, CellFolder], results: Sequence[Result]) -> Path:
    """Write report/ of a run folder; returns the path of report.html."""
    root = folder.root / "report"
    order = in_order(study, list(cells))
    write_text(root / "table.tex", tex(study, results))
    write_text(root / "table.csv", wide_csv(study, results))
    figure = _forest(study, order, results, root / "figures")
    clips = clips_of(folder, study, cells, order)
    _strips(study, clips, prompts_of(study, cells), root / "figures")
    page = root / "report.html"
    write_text(page, render(folder, study, {name: cells[name] for name in order}, results, clips, figure))
    return page


def clips_of(folder: RunFolder, study: Study, cells: Mapping[str, CellFolder], order: Sequence[str]) -> dict[str, dict[str, Path]]:
    """The videos to show: sample -> name of the clip (the truth, then cells in order) -> file."""
    found: dict[str, dict[str, Path]] = {}
    sources = {TRUTH: folder.root / "reference"} | {name: cells[name].root / "videos" for name in order}
    for name, source in sources.items():
        for file in sorted(source.glob("[!.]*.mp4"))[: study.report.videos]:
            found.setdefault(file.stem, {})[name] = file
    return dict(sorted(found.items()))


def prompts_of(study: Study, cells: Mapping[str, CellFolder]) -> dict[str, str]:
    """Sample (the stem of its video file) -> prompt."""
    table = next(iter(cells.values())).samples()
    return {f"{index:04d}": prompt for index, prompt in zip(table["index"], table["prompt"]) if index < study.report.videos}


def _forest(study: Study, order: Sequence[str], results: Sequence[Result], folder: Path) -> str | None:
    """figures/forest.pdf and .png; returns the same figure as SVG text for the page, or None without a single difference."""
    from wanlab.plots import Effect, forest, save

    known = {r.metric for r in results if math.isfinite(r.delta)}
    effects = [
        Effect(r.cell, headline(r.metric), r.delta, r.delta_low, r.delta_high, r.significant, r.better)
        for cell in order
        if cell != study.baseline
        for r in results
        if r.cell == cell and r.metric in known
    ]
    if not effects:
        return None
    figure = forest(effects, study.report.width, baseline=study.baseline)
    for kind in ("pdf", "png", "svg"):
        write(folder / f"forest.{kind}", lambda temporary, kind=kind: save(figure, temporary, kind))
    text = (folder / "forest.svg").read_text(encoding="utf-8")
    return text[text.index("<svg") :]


def _strips(study: Study, clips: Mapping[str, Mapping[str, Path]], prompts: Mapping[str, str], folder: Path) -> None:
    """figures/strip-NNNN.png for each shown sample."""
    from wanlab.data.folder import read_video
    from wanlab.plots import save, strip

    for sample, files in clips.items():
        videos = {name: read_video(file).movedim(1, -1).numpy() for name, file in files.items()}
        figure = strip(videos, study.report.width, f"“{prompts[sample]}”" if prompts.get(sample) else "")
        write(folder / f"strip-{sample}.png", lambda temporary, figure=figure: save(figure, temporary, "png"))
