"""report.html: one file that opens anywhere, with nothing to download. Every text in it is escaped by the template."""

from __future__ import annotations

import base64
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..cautions import cautions
from ..files import to_yaml
from ..progress import clock
from ..spec import Study
from ..stats import Result
from ..store import CellFolder, RunFolder
from .numbers import by_metric, headline, places, ranked, shown

ARROWS = {"higher": "↑", "lower": "↓", "none": ""}


def render(
    folder: RunFolder,
    study: Study,
    cells: Mapping[str, CellFolder],
    results: Sequence[Result],
    clips: Mapping[str, Mapping[str, Path]],
    forest: str | None,
) -> str:
    """The page as text.

    Args:
        cells: finished cells in the order of the table.
        clips: sample -> name -> video file.
        forest: the forest plot as SVG.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    here = resources.files(__package__)
    metrics = [_column(group) for group in by_metric(results).values()]
    return environment.get_template("page.html").render(
        style=(here / "page.css").read_text(encoding="utf-8"),
        script=(here / "page.js").read_text(encoding="utf-8"),
        study=study,
        baseline=study.baseline,
        facts=_facts(study, cells, results),
        metrics=metrics,
        rows=[_row(study, name, cell, results, metrics) for name, cell in cells.items()],
        missing=[name for name in study.cells if name not in cells],
        forest=forest,
        samples=_samples(folder, study, cells, clips),
        fps=study.report.fps,
        sharing=_sharing(cells),
        notes=cautions(study, results),
        environment=_flat(folder.environment()),
        source=to_yaml(study.resolved()),
    )


def _facts(study: Study, cells: Mapping[str, CellFolder], results: Sequence[Result]) -> list[tuple[str, str]]:
    """The figures at the head of the page."""
    first = next(iter(cells.values())).samples()
    samples = len(set(zip(first["index"], first["seed"])))
    logs = [record for cell in cells.values() for record in cell.attempts() if record.get("state") == "ok"]
    seconds = sum(sum(s["seconds"] for s in r.get("stages", {}).values()) + r.get("metrics", 0.0) for r in logs)
    significant = sum(r.significant for r in results)
    return [
        ("cells", str(len(cells))),
        ("samples per cell", f"{len(set(first['index']))} × {len(study.seeds)} seed" + ("s" if len(study.seeds) > 1 else "")),
        ("videos made and measured", f"{samples * len(cells):,}"),
        ("computing time", clock(seconds)),
        ("significant differences", f"{significant} of {sum(math.isfinite(r.p) for r in results)}"),
    ]


def _column(group: Sequence[Result]) -> dict[str, Any]:
    name = group[0].metric
    return {
        "name": name,
        "label": headline(name),
        "arrow": ARROWS[group[0].better],
        "digits": places(group),
        "better": group[0].better,
        "group": group,
        "ranked": ranked(group, places(group)),
    }


def _row(study: Study, name: str, cell: CellFolder, results: Sequence[Result], metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One cell of the study as a line of the table."""
    spec, mine = study.cells[name], {r.metric: r for r in results if r.cell == name}
    what = [f"without {c}" for c in spec.ablate] + [f"{stage} = {variant}" for stage, variant in spec.swap.items()]
    what += [" ".join(f"{key}={value}" for key, value in edit.items()) for edit in spec.edits]
    what += [f"{key} = {value}" for key, value in spec.sampler.model_dump(exclude_none=True).items()]
    return {
        "name": name,
        "what": ", ".join(what),
        "note": spec.note,
        "pair": spec.pairs_with,
        "key": cell.root.name,
        "baseline": name == study.baseline,
        "entries": [_entry(mine[m["name"]], m) for m in metrics],
    }


def _entry(result: Result, metric: Mapping[str, Any]) -> dict[str, Any]:
    """One number with everything that is shown about it."""
    digits, (best, second) = metric["digits"], metric["ranked"]
    interval = f"[{shown(result.ci_low, digits)}, {shown(result.ci_high, digits)}]" if math.isfinite(result.ci_low) else ""
    entry = {
        "value": shown(result.value, digits),
        "interval": interval,
        "n": result.n,
        "kind": "",
        "delta": "",
        "span": "",
        "sort": f"{result.value:.9g}" if math.isfinite(result.value) else "",
        "rank": "best" if result.cell in best else "second" if result.cell in second else "",
        "p": "",
        "mark": "",
    }
    if not math.isfinite(result.delta):
        return entry
    if result.delta == result.delta_low == result.delta_high == 0.0:
        return entry | {"kind": "unclear", "delta": "no difference"}
    kind = _kind(result)
    mark = {"better": "▲", "worse": "▼", "changed": "◆", "unclear": ""}[kind]
    tiny = 0 < result.p_adjusted < 0.001
    p = (
        ""
        if not math.isfinite(result.p_adjusted)
        else "p < 0.001"
        if tiny or result.p_adjusted == 0
        else f"p = {result.p_adjusted:.3f}"
    )
    return entry | {
        "kind": kind,
        "mark": mark,
        "delta": shown(result.delta, digits, sign=True),
        "p": p,
        "span": f"[{shown(result.delta_low, digits)}, {shown(result.delta_high, digits)}]",
    }


def _kind(result: Result) -> str:
    if not result.significant:
        return "unclear"
    if result.better == "none":
        return "changed"
    return "better" if (result.delta > 0) == (result.better == "higher") else "worse"


def _samples(
    folder: RunFolder, study: Study, cells: Mapping[str, CellFolder], clips: Mapping[str, Mapping[str, Path]]
) -> list[dict[str, Any]]:
    """The videos: inline while the budget lasts, links to the run folder beyond."""
    from .build import prompts_of

    prompts, left = prompts_of(study, cells), study.report.budget_mb * 1e6
    samples = []
    for sample, files in clips.items():
        entries = []
        for name, file in files.items():
            size = file.stat().st_size * 4 / 3
            left -= size
            link = f"../{file.relative_to(folder.root).as_posix()}"
            data = f"data:video/mp4;base64,{base64.b64encode(file.read_bytes()).decode()}" if left >= 0 else link
            entries.append({"name": name, "source": data, "link": link})
        samples.append({"name": sample, "prompt": prompts.get(sample, ""), "clips": entries})
    return samples


def _sharing(cells: Mapping[str, CellFolder]) -> dict[str, Any]:
    """Stage runs that would have been needed without sharing, and those that were made."""
    runs: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    rows: Counter[str] = Counter()
    alone, metrics = 0, 0.0
    for cell in cells.values():
        done = {record["chunk"]: record for record in cell.attempts() if record.get("state") == "ok"}
        alone += len(done)
        for record in done.values():
            metrics += record.get("metrics", 0.0)
            for stage, counts in record.get("stages", {}).items():
                runs[stage] += counts["runs"]
                rows[stage] += counts["rows"]
                seconds[stage] += counts["seconds"]
    order = [stage for stage in next(iter(cells.values())).description()["weights"] if stage in runs]
    stages = [
        {
            "name": s,
            "alone": alone,
            "runs": runs[s],
            "seconds": clock(seconds[s]),
            "each": f"{seconds[s] / rows[s]:.3f} s" if rows[s] else "–",
            "share": 100 * runs[s] / alone if alone else 0,
        }
        for s in order
    ]
    return {"stages": stages, "alone": alone * len(order), "runs": sum(runs.values()), "metrics": clock(metrics)}


def _flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested data as lines of name and value."""
    lines: list[tuple[str, str]] = []
    for key, value in data.items():
        name = f"{prefix}{key}"
        lines += _flat(value, f"{name} · ") if isinstance(value, Mapping) else [(name, str(value))]
    return lines
