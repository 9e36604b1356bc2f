"""report.html: one file that opens anywhere, with nothing to download. Every text in it is escaped by the template."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from wanlab.plots.effect import ARROWS, headline

from ..cautions import cautions
from ..files import to_yaml
from ..logs import finished, spent
from ..progress import clock
from ..spec import Study, Train
from ..stats import Result
from ..store import CellFolder, RunFolder
from .cost import sharing
from .figures import Drawn
from .numbers import Column, columns, in_order, shown, without_placebos

MARKS = {"better": "▲", "worse": "▼", "changed": "◆"}
MANY = 150  # videos beyond which each is loaded only when it comes into sight


def render(
    folder: RunFolder,
    study: Study,
    cells: Mapping[str, CellFolder],
    results: Sequence[Result],
    clips: Mapping[str, Mapping[str, Path]],
    prompts: Mapping[str, str],
    drawn: Sequence[Drawn],
) -> str:
    """The page as text.

    Args:
        cells: finished cells in the order of the table.
        clips: sample -> name -> video file; prompts: sample -> prompt.
        drawn: the figures in report/figures; their SVG goes into the page.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    here = resources.files(__package__)
    script = (here / "page.js").read_text(encoding="utf-8")
    seen = without_placebos(results)
    metrics = columns(seen)
    table: dict[str, dict[str, Result]] = {name: {} for name in cells}
    for result in results:
        table[result.cell][result.metric] = result
    return environment.get_template("page.html").render(
        style=(here / "page.css").read_text(encoding="utf-8"),
        script=script,
        allowed=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        study=study,
        baseline=study.baseline,
        confidence=f"{100 * study.stats.confidence:g} %",
        facts=_facts(study, cells, seen),
        metrics=[{"name": one.metric, "label": headline(one.key), "arrow": ARROWS[one.better]} for one in metrics],
        rows=[
            _row(study, name, depth, cells[name], table[name], metrics)
            for name, depth in in_order(study, cells).items()
            if not _stands_in(study, name, cells)
        ],
        pairs=_pairs(study, table, metrics),
        placebos=_placebos(table, metrics),
        missing=[name for name in study.cells if name not in cells],
        outdated=folder.outdated(),
        figures=[{"words": one.words, "title": one.title, "stem": one.stem, "source": _picture(folder, one)} for one in drawn],
        samples=_samples(folder, study, clips, prompts),
        preload="none" if sum(map(len, clips.values())) > MANY else "auto",
        fps=study.report.fps,
        sharing=sharing(cells) | _planned(folder),
        notes=cautions(study, results),
        environment=_flat(folder.environment()),
        source=to_yaml(study.resolved()),
    )


def _stands_in(study: Study, name: str, cells: Mapping[str, CellFolder]) -> bool:
    """Whether a cell is a placebo of one that is shown: it stands in the section of placebos, not in the table."""
    return study.cells[name].placebo is not None and study.cells[name].pairs_with in cells


def _picture(folder: RunFolder, one: Drawn) -> str:
    """A figure as an address that holds it. As a picture, not as markup: nothing in it can act on the page."""
    data = (folder.root / "report" / "figures" / f"{one.stem}.svg").read_bytes()
    return f"data:image/svg+xml;base64,{base64.b64encode(data).decode()}"


def _planned(folder: RunFolder) -> dict[str, int | None]:
    """Stage runs that were planned, from the log of the run: of an interrupted part those that it made."""
    known = [r for r in folder.attempts() if r.get("state") in ("ended", "stopped") and {"shared", "made"} <= r.keys()]
    planned = sum(r["shared"] if r["state"] == "ended" else r["made"] for r in known)
    return {"planned": planned or None}


def _facts(study: Study, cells: Mapping[str, CellFolder], results: Sequence[Result]) -> list[tuple[str, str]]:
    """The figures at the head of the page."""
    first = next(iter(cells.values())).samples()
    samples = len(set(zip(first["index"], first["seed"])))
    seconds = sum(spent(line for cell in cells.values() for line in finished(cell.attempts())).seconds.values())
    significant = sum(r.significant for r in results)
    return [
        ("cells", str(len(cells))),
        ("samples per cell", f"{len(set(first['index']))} × {len(study.seeds)} seed" + ("s" if len(study.seeds) > 1 else "")),
        ("videos made and measured", f"{samples * len(cells):,}"),
        ("computing time", clock(seconds)),
        ("significant differences", f"{significant} of {sum(math.isfinite(r.p) for r in results)}"),
    ]


def _row(
    study: Study, name: str, depth: int, cell: CellFolder, mine: Mapping[str, Result], metrics: Sequence[Column]
) -> dict[str, Any]:
    """One cell of the study as a line of the table."""
    spec = study.cells[name]
    return {
        "name": name,
        "what": _what(study, name),
        "note": spec.note,
        "depth": depth,
        "key": cell.root.name,
        "baseline": name == study.baseline,
        "entries": [_entry(mine[m.metric], m) for m in metrics],
    }


def _what(study: Study, name: str) -> str:
    """What a cell changes, in words."""
    spec = study.cells[name]
    what = [f"without {c}" for c in spec.ablate] + [f"{stage} = {variant}" for stage, variant in spec.swap.items()]
    what += [f"trained first: {spec.train.part}"] if spec.train else []
    what += [f"placebo of {', '.join(spec.placebo.of)}, draw {spec.placebo.draw}"] if spec.placebo else []
    what += [" ".join(f"{key}={value}" for key, value in edit.items()) for edit in spec.edits]
    what += [f"steps {spec.window}"] if spec.window is not None else []
    what += [f"branch {spec.branch}"] if spec.branch is not None else []
    what += [f"{key} = {value}" for key, value in spec.sampler.model_dump(exclude_none=True).items()]
    return ", ".join(what)


def _pairs(study: Study, table: Mapping[str, Mapping[str, Result]], metrics: Sequence[Column]) -> list[dict[str, Any]]:
    """Cells beside the one that they pair with: what is removed at inference, and what was trained without it."""
    groups: dict[str, list[str]] = {}
    for name in table:
        partner = study.cells[name].pairs_with
        if partner is not None and partner in table and study.cells[name].placebo is None:
            groups.setdefault(partner, [partner]).append(name)
    return [
        {
            "name": partner,
            "rows": [
                {
                    "name": name,
                    "what": study.cells[name].note or _what(study, name),
                    "how": _how(study, name),
                    "entries": [_entry(table[name][m.metric], m) for m in metrics],
                }
                for name in names
            ],
        }
        for partner, names in groups.items()
    ]


def _lacks(train: Train) -> bool:
    """Whether what is trained lacks something, by the name of the variant or by a setting."""
    less = {"lam": 0, "temporal": False, "align": "none"}
    return train.part.partition(".")[2].startswith("no_") or any(train.set.get(key, ...) == value for key, value in less.items())


def _how(study: Study, name: str) -> str:
    """Since when a cell lacks what it lacks; nothing for a variant that is another, not a lesser one."""
    cell = study.cells[name]
    swapped = any(variant == "none" or variant.startswith("no_") for variant in cell.swap.values())
    if swapped or (cell.train is not None and _lacks(cell.train)):
        return "removed from the start"
    return "removed at inference" if cell.ablate or cell.edits else ""


def _placebos(table: Mapping[str, Mapping[str, Result]], metrics: Sequence[Column]) -> list[dict[str, Any]]:
    """Each cell that has placebos: its difference beside theirs."""
    rows = []
    for name, mine in table.items():
        entries = []
        for metric in metrics:
            result, digits = mine[metric.metric], metric.digits
            others, signed = sorted(result.placebos), not result.from_baseline
            ends = [shown(one, digits, sign=signed) for one in others[:1] + others[-1:]]
            entries.append(
                {
                    "delta": shown(result.change[0], digits, sign=signed) if others else "",
                    "span": " to ".join(ends) if others else "",
                    "rank": f"rank {result.placebo_rank} of {len(others) + 1}" if others else "",
                    "first": bool(others) and result.placebo_rank == 1,
                }
            )
        if any(entry["rank"] for entry in entries):
            rows.append({"name": name, "count": max(len(r.placebos) for r in mine.values()), "entries": entries})
    return rows


def _entry(result: Result, metric: Column) -> dict[str, Any]:
    """One number with everything that is shown about it."""
    digits = metric.digits
    entry = {
        "value": shown(result.value, digits),
        "interval": _span(result.ci_low, result.ci_high, digits),
        "n": result.n,
        "kind": "",
        "delta": "",
        "span": "",
        "sort": f"{result.value:.9g}" if math.isfinite(result.value) else "",
        "rank": "best" if result.cell in metric.best else "second" if result.cell in metric.second else "",
        "p": "",
        "mark": "",
        "effects": "",
    }
    if not math.isfinite(result.delta):
        return entry
    if result.verdict == "same":
        return entry | {"kind": "unclear", "delta": "no difference"}
    effects = [("dz", result.dz), ("rank-biserial r", result.rank_biserial)]
    return entry | {
        "kind": result.verdict,
        "mark": MARKS.get(result.verdict, ""),
        "delta": shown(result.delta, digits, sign=True),
        "p": _p(result.p_adjusted),
        "span": _span(result.delta_low, result.delta_high, digits),
        "effects": ", ".join(f"{name} {shown(value, 2, sign=True)}" for name, value in effects if math.isfinite(value)),
    }


def _span(low: float, high: float, digits: int) -> str:
    """An interval; nothing where there is none."""
    return f"[{shown(low, digits)}, {shown(high, digits)}]" if math.isfinite(low) else ""


def _p(p: float) -> str:
    """A p-value in words; nothing where there is none."""
    return "" if not math.isfinite(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _samples(
    folder: RunFolder, study: Study, clips: Mapping[str, Mapping[str, Path]], prompts: Mapping[str, str]
) -> list[dict[str, Any]]:
    """The videos: inline while the budget lasts, links to the run folder beyond."""
    left = study.report.budget_mb * 1e6
    samples = []
    for sample, files in clips.items():
        entries = []
        for name, file in files.items():
            left -= file.stat().st_size * 4 / 3
            link = f"../{file.relative_to(folder.root).as_posix()}"
            data = f"data:video/mp4;base64,{base64.b64encode(file.read_bytes()).decode()}" if left >= 0 else link
            entries.append({"name": name, "source": data})
        samples.append({"name": sample, "prompt": prompts.get(sample, ""), "clips": entries})
    return samples


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested data as lines of name and value."""
    lines: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        lines += _flat(value, f"{name} · ") if isinstance(value, Mapping) else [(name, str(value))]
    return lines
