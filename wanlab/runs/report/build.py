"""Writing all files of a report. Each is made from the run folder alone, so a report can be made again at any time."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..files import write_text
from ..spec import Study
from ..stats import Result
from ..store import CellFolder, RunFolder
from .figures import draw, strips
from .numbers import in_order
from .page import render
from .tables import tex, wide_csv

TRUTH = "true clip"


def write_all(folder: RunFolder, study: Study, cells: Mapping[str, CellFolder], results: Sequence[Result]) -> Path:
    """Write report/ of a run folder; returns the path of report.html. Figures of an earlier report are removed."""
    root = folder.root / "report"
    order = list(in_order(study, cells))
    ordered, place = {name: cells[name] for name in order}, {name: number for number, name in enumerate(order)}
    results = sorted(results, key=lambda result: place[result.cell])
    write_text(root / "table.tex", tex(study, results))
    write_text(root / "table.csv", wide_csv(study, results))
    shutil.rmtree(root / "figures", ignore_errors=True)
    drawn = draw(study, ordered, results, root / "figures")
    clips, prompts = clips_of(folder, study, cells, order), prompts_of(study, cells)
    strips(study, clips, prompts, root / "figures", [TRUTH, *(name for name in order if study.cells[name].placebo is None)])
    page = root / "report.html"
    write_text(page, render(folder, study, ordered, results, clips, prompts, drawn))
    return page


def clips_of(folder: RunFolder, study: Study, cells: Mapping[str, CellFolder], order: Sequence[str]) -> dict[str, dict[str, Path]]:
    """The videos to show: sample -> name of the clip (the truth, then cells in order) -> file; of samples that all cells have: one
    that was finished while fewer were asked for has fewer."""
    sources = {TRUTH: folder.root / "reference"} | {name: cells[name].root / "videos" for name in order}
    files = {name: {file.stem: file for file in source.glob("[!.]*.mp4")} for name, source in sources.items()}
    kept = [set(files[name]) for name in order if files[name]]
    samples = sorted(set.intersection(*kept))[: study.report.videos] if kept else []
    return {sample: {name: files[name][sample] for name in sources if sample in files[name]} for sample in samples}


def prompts_of(study: Study, cells: Mapping[str, CellFolder]) -> dict[str, str]:
    """Sample (the stem of its video file) -> prompt. Raises RunFolderError where the rows make no sense."""
    cell = next(iter(cells.values()))
    table = cell.samples()
    with cell.whole("samples.parquet"):
        return {f"{index:04d}": prompt for index, prompt in zip(table["index"], table["prompt"]) if index < study.report.videos}
