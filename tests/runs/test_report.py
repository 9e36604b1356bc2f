"""Reports: the page, the tables and the figures of a finished run."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from tests.runs.toy import STUDY, Toy, load_toy, resolve_toy
from wanlab.runs.cautions import cautions
from wanlab.runs.document import StudyError
from wanlab.runs.reading import parse_study
from wanlab.runs.report.cost import seconds_per_sample
from wanlab.runs.report.figures import draw, selected, span_of
from wanlab.runs.report.numbers import decimals, in_order, ranked, shown
from wanlab.runs.report.page import _how, render
from wanlab.runs.report.tables import escape, tex, wide_csv
from wanlab.runs.stats import Result
from wanlab.runs.store import CellFolder, RunFolder
from wanlab.runs.study import report_study, run_study


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished toy study with its report; tests leave it as it is."""
    folder = tmp_path_factory.mktemp("report")
    (folder / "study.yaml").write_text(STUDY)
    console = Console(file=io.StringIO())
    run_study(folder / "study.yaml", folder / "out", (), "cpu", console=console, load=load_toy(Toy()), resolve=resolve_toy)
    return folder / "out"


def test_the_page_is_whole_and_loads_nothing(root: Path) -> None:
    page = (root / "report" / "report.html").read_text()
    assert not re.search(r'(src|href)="(https?:)?//', page) and "@import" not in page and not re.search(r"url\((?!#)", page)
    assert page.count("data:video/mp4;base64,") == 2 * 6  # two samples: the true clip and five cells
    for name in ("baseline", "text", "detail", "both", "sharp"):
        assert f">{name}<" in page
    assert "would have been <b>150</b> stage runs, there were <b>84</b>" in page
    for file in re.findall(r'href="([^"#d][^"]*)"', page):
        assert (root / "report" / file).exists(), file


def test_beyond_the_budget_videos_are_links(run: Callable[..., Any]) -> None:
    root, _ = run("small", "report.budget_mb=0.004", report=True)
    page = (root / "report" / "report.html").read_text()
    links = re.findall(r'<video[^>]* src="(\.\./[^"]+)"', page)
    assert 0 < page.count("data:video/mp4") < 12 and len(links) + page.count("data:video/mp4") == 12
    assert all((root / "report" / link).exists() for link in links)


def test_a_report_can_be_made_again_from_the_folder_alone(root: Path) -> None:
    files = [path for path in (root / "report").rglob("*") if path.is_file()]
    before = {path: path.read_bytes() for path in files}
    results = (root / "results.csv").read_bytes()
    for path in [*files, root / "results.csv"]:
        path.unlink()
    report_study(root, resolve=resolve_toy)
    assert (root / "results.csv").read_bytes() == results
    assert {path: path.read_bytes() for path in files} == before


def test_table_csv_holds_what_results_csv_holds(root: Path) -> None:
    with open(root / "results.csv", newline="") as long, open(root / "report" / "table.csv", newline="") as wide:
        results, table = list(csv.DictReader(long)), {row["cell"]: row for row in csv.DictReader(wide)}
    assert len(results) == 5 * 3
    for row in results:
        for field in ("value", "ci_low", "ci_high", "delta", "p_adjusted", "n"):
            assert table[row["cell"]][f"{row['metric']} {field}"] == row[field]


def test_what_stands_below_a_cell_that_stands_below_another_is_placed_there() -> None:
    cells = {"baseline": None, "residual": None, "residual_retrained": "residual", "residual_again": "residual_retrained",
             "gan_head": None, "gan_head_again": "gan_head_retrained", "gan_head_retrained": "gan_head"}  # fmt: skip
    told = ", ".join(f"{name}: {{pairs_with: {other}}}" if other else f"{name}: " for name, other in cells.items())
    study, _ = parse_study(f"name: t\ndata: {{kind: procedural}}\nmetrics: [m]\ncells: {{{told}}}\n")
    depths = {"baseline": 0, "residual": 0, "residual_retrained": 1, "residual_again": 2,
              "gan_head": 0, "gan_head_retrained": 1, "gan_head_again": 2}  # fmt: skip
    assert list(in_order(study, study.cells).items()) == list(depths.items())
    text = tex(study, results(dict.fromkeys(cells, 1.0)))
    rows = re.findall(r"^((?:\\quad )*)(\w[\w\\]*) & ", text, re.MULTILINE)
    assert [(name.replace("\\", ""), quads.count("quad")) for quads, name in rows] == list(depths.items())
    two = "a: {pairs_with: b}, b: {pairs_with: a}"
    ring, _ = parse_study(f"name: t\ndata: {{kind: procedural}}\nmetrics: [m]\ncells: {{baseline: , {two}}}\n")
    assert in_order(ring, ring.cells) == {"baseline": 0, "a": 0, "b": 0}


def test_latex_is_balanced_and_escaped(root: Path) -> None:
    text = (root / "report" / "table.tex").read_text()
    assert text.count(r"\begin{") == text.count(r"\end{") and text.count("{") == text.count("}")
    assert all(rule in text for rule in (r"\toprule", r"\midrule", r"\bottomrule", r"\uparrow", r"\downarrow", r"\quad sharp"))
    body = re.sub(r"\\[_%&#$]", "", text.split(r"\label")[1].split("}", 1)[1])
    for line in body.splitlines():
        assert "_" not in line and "%" not in line
        if line.rstrip().endswith(r"\\"):
            assert line.count("&") == 3
    assert escape(r"50% & a_b\c{}") == r"50\% \& a\_b\textbackslash{}c\{\}"
    assert escape("a → é “x” 日") == r"a $\rightarrow$ é “x” \texttt{U+65E5}"


def test_latex_that_no_page_holds_is_cut_into_tables_under_one_number() -> None:
    metrics = [f"metric_{i}[some|protocol]" for i in range(11)]
    cells = ["baseline", *(f"a_cell_{i}" for i in range(39))]
    study, _ = parse_study(
        "name: t_1\ntitle: 90 % of <all> & more\ndata: {kind: procedural}\nmetrics: [m]\ncells: {" + ": , ".join(cells) + ": }\n"
    )
    numbers = (0.12345, 0.12, 0.13, -0.01, -0.02, 0.01, 0.1, 0.1, 9, "lower")
    rows = [Result(cell, metric, metric.split("[")[0], *numbers) for metric in metrics for cell in cells]
    text = tex(study, rows)
    tables = text.split(r"\begin{table}")[1:]
    assert len(tables) > 3 and text.count(r"\label{tab:t_1}") == 1
    assert [r"\addtocounter{table}{-1}" in table for table in tables] == [False] + [True] * (len(tables) - 1)
    assert all(r"\textbf{90 \% of \textless{}all\textgreater{} \& more" in table for table in tables)
    seen: set[tuple[str, str]] = set()
    for table in tables:
        assert table.count("\n") < 80  # lines of a page
        for tabular in re.findall(r"\\begin\{tabular\}.*?\\end\{tabular\}", table, re.DOTALL):
            (columns,) = re.findall(r"@\{\}l(r+)@\{\}", tabular)
            lines = [line for line in tabular.splitlines() if "&" in line]
            assert {line.count("&") for line in lines} == {len(columns)} and len(columns) < 5
            heads = [head.split(" $")[0] for head in lines[0].rstrip("\\ ").split(" & ")[1:]]
            seen |= {(head, line.split(" &")[0]) for head in heads for line in lines[1:] if line[0] != " "}
    assert len(seen) == 11 * 40


def results(values: dict[str, float], better: str = "lower") -> list[Result]:
    return [Result(name, "m", "m", value, value - 0.1, value + 0.1, n=9, better=better) for name, value in values.items()]


def test_best_and_second_with_ties() -> None:
    table = results({"a": 1.001, "b": 1.004, "c": 1.2, "d": 1.5, "e": math.nan})
    assert ranked(table, 2) == ({"a", "b"}, {"c"})
    assert ranked(results({"a": 1.0, "b": 2.0}, "higher"), 2) == ({"b"}, {"a"})
    assert ranked(results({"a": 1.0, "b": 2.0}, "none"), 2) == (set(), set())
    study, _ = parse_study("name: t\ndata: {kind: procedural}\nmetrics: [m]\nbaseline: a\ncells: {a: , b: , c: , d: , e: }\n")
    text = tex(study, table)
    assert text.count(r"\textbf{1.00}") == 2 and text.count(r"\underline{1.20}") == 1 and "e & --" in text


def test_decimals_follow_the_interval() -> None:
    assert [decimals(h) for h in (0.5, 0.05, 0.012, 3.0, 42.0, 1e-9, 0.0, math.nan)] == [2, 3, 3, 1, 0, 6, 3, 3]
    assert (shown(-0.0001, 2), shown(-1.5, 1), shown(2.0, 1, sign=True), shown(math.nan, 2)) == ("0.00", "−1.5", "+2.0", "–")


def test_pairs_stand_below_their_partner() -> None:
    study, _ = parse_study(STUDY)
    assert list(in_order(study, study.cells)) == ["baseline", "text", "detail", "sharp", "both"]
    assert in_order(study, ["sharp", "baseline"]) == {"baseline": 0, "sharp": 0}


def test_figures_embed_true_type_fonts_at_the_exact_width(root: Path) -> None:
    from PIL import Image

    pdf = (root / "report" / "figures" / "forest.pdf").read_bytes()
    assert b"/Type3" not in pdf and b"/CreationDate" not in pdf
    width = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf)
    assert width is not None and float(width.group(1)) == pytest.approx(5.5 * 72)
    with Image.open(root / "report" / "figures" / "forest.png") as image:
        assert image.width == 5.5 * 300


GRID = """
name: grid
pipeline: toy
data: {kind: procedural, split: test, n: 5, seed: 0}
sampler: {steps: 4}
cells:
  baseline:
  generator: {ablate: temporal}
  fast: {sampler: {steps: 1}}
  slow: {sampler: {steps: 12}}
axes:
  part: {ablate: [temporal, fusion]}
  when: {window: ["0:2", "2:4"]}
metrics: [psnr, flicker]
report: {videos: 1, width: icml, metrics: psnr}
"""


@pytest.fixture(scope="module")
def study_and_cells(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, Any], list[Result]]:
    """Cells of a grid with made-up results: figures are chosen from the study and from what its cells say of themselves."""
    study, _ = parse_study(GRID)
    cells = {}
    for name in study.cells:
        steps = study.sampler_of(name).steps
        folder = CellFolder(tmp_path_factory.mktemp(name.replace("+", "_")))
        said = {"name": name, "sampler": {"steps": steps}, "metrics": {}, "weights": {"denoise": "x"}}
        (folder.root / "cell.yaml").write_text(json.dumps(said))
        folder.log({"chunk": 0, "state": "ok", "rows": 5, "stages": {"denoise": {"runs": 1, "rows": 5, "seconds": 0.5 * steps}}})
        cells[name] = folder
    rows = [
        Result(name, metric, metric, 1.0, 0.9, 1.1, *(() if name == "baseline" else (0.1, 0.0, 0.2, 0.5, 0.5)), n=5, pairs=5)
        for name in cells
        for metric in ("psnr", "flicker")
    ]
    return study, cells, rows


def test_figures_are_those_that_the_study_has_something_to_show_in(study_and_cells: Any, tmp_path: Path) -> None:
    study, cells, rows = study_and_cells
    assert [one.stem for one in draw(study, cells, rows, tmp_path)] == ["forest", "heatmap", "windows", "cost"]
    for stem in ("forest", "heatmap", "windows", "cost"):
        for kind in ("pdf", "png", "svg"):
            assert (tmp_path / f"{stem}.{kind}").stat().st_size > 1000
        with Image.open(tmp_path / f"{stem}.png") as image:
            assert image.width == 3.25 * 300
    plain = study.model_copy(update={"report": study.report.model_copy(update={"figures": ["heatmap"]})})
    assert [one.stem for one in draw(plain, cells, rows, tmp_path / "some")] == ["heatmap"]
    simple, _ = parse_study("name: s\ndata: {kind: procedural}\nmetrics: [psnr]\ncells: {baseline: , generator: }\n")
    few = {name: cells[name] for name in ("baseline", "generator")}
    assert [one.stem for one in draw(simple, few, [r for r in rows if r.cell in few], tmp_path / "simple")] == ["forest"]


def test_without_a_finished_baseline_there_is_nothing_to_draw(study_and_cells: Any, tmp_path: Path) -> None:
    study, cells, rows = study_and_cells
    nan = math.nan
    lone = [replace(r, delta=nan, delta_low=nan, delta_high=nan, p=nan, p_adjusted=nan) for r in rows if r.cell != "baseline"]
    some = {name: cell for name, cell in cells.items() if name != "baseline"}
    assert [one.stem for one in draw(study, some, lone, tmp_path)] == ["cost"]
    assert r"\dagger$}" not in tex(study, lone).split(r"\label")[1]


def test_windows_are_read_as_selections_are() -> None:
    assert [span_of(w, 8) for w in ("0:2", "-3:", 5, [2, 3], "last", "::2", "0.25:0.75")] == [
        (0, 2), (5, 8), (5, 6), (2, 4), (7, 8), None, (-0.75, -0.25)
    ]  # fmt: skip


def test_a_cell_that_found_its_stages_costs_what_those_that_ran_them_measured(study_and_cells: Any, tmp_path: Path) -> None:
    _, cells, _ = study_and_cells
    idle = CellFolder(tmp_path)
    (tmp_path / "cell.yaml").write_text((cells["slow"].root / "cell.yaml").read_text())
    idle.log({"chunk": 0, "state": "ok", "rows": 5, "stages": {"denoise": {"runs": 0, "rows": 0, "seconds": 0.0}}})
    seconds = seconds_per_sample({**cells, "idle": idle})
    assert seconds["fast"] == pytest.approx(0.1) and seconds["idle"] == seconds["slow"] == pytest.approx(1.2)


def test_a_title_ends_like_a_sentence() -> None:
    for title, ends in (("Why", r"\textbf{Why.}"), ("Why?", r"\textbf{Why?}")):
        rest = "data: {kind: procedural}\nmetrics: [m]\nbaseline: a\ncells: {a: , b: }\n"
        study, _ = parse_study(f"name: t\ntitle: {title}\n{rest}")
        assert ends in tex(study, results({"a": 1.0, "b": 2.0}))


def test_pairs_stand_side_by_side_and_cautions_name_n(root: Path) -> None:
    page = (root / "report" / "report.html").read_text()
    beside = page[page.index('id="pairs"') :].split("</section>")[0]
    assert ">detail<" in beside and ">sharp<" in beside and ">text<" not in beside and "removed at inference" in beside
    assert "n = 5 (every metric): below n = 12" in page and "smallest p that a sign-flip test can give" in page


def test_placebos_leave_the_table_for_a_section_and_a_row_of_their_own(run: Callable[..., Any]) -> None:
    study, _ = parse_study(GRID.replace("axes:", "placebo: {of: temporal, draws: 3}\naxes:"))
    names = [name for name, cell in study.cells.items() if cell.placebo]
    assert [study.cells[name].pairs_with for name in names] == ["generator"] * 3
    rows = [
        Result(name, "psnr", "psnr", 1.0, 0.9, 1.1, *(() if name == "baseline" else (0.1, 0.0, 0.2, 0.5, 0.5)), n=5, pairs=5,
               placebos=(0.2, -0.05, 0.01) if name == "generator" else (),
               placebo_of="generator" if name in names else None)
        for name in study.cells
    ]  # fmt: skip
    text = tex(study, rows)
    assert "placebo-" not in text and text.count(r"\quad {\scriptsize placebos}") == 1 and "range of differences of 3 cuts" in text
    table = {row["cell"]: row for row in csv.DictReader(io.StringIO(wide_csv(study, rows)))}
    assert table["generator"]["psnr placebo_rank"] == "2" and table["fast"]["psnr placebo_rank"] == ""


def test_a_placebo_is_neither_the_best_nor_counted(root: Path) -> None:
    folder = RunFolder(root)
    text = STUDY.replace("{ablate: [residual, detail]}", "{placebo: {of: detail}, pairs_with: detail}")
    study, _ = parse_study(text)
    cells = folder.cells()
    values = {"baseline": 2.0, "text": 1.0, "detail": 4.0, "sharp": 3.0, "both": 5.0}  # `both` is the placebo
    rows = [
        Result(name, "m", "m", values[name], 0.9, 1.1, *(() if name == "baseline" else (0.1, 0.0, 0.2, 0.01, 0.01)), n=5,
               better="higher", placebo_of="detail" if name == "both" else None, placebos=(3.0,) if name == "detail" else ())
        for name in cells
    ]  # fmt: skip
    page = render(folder, study, cells, rows, {}, {}, [])
    marks = re.findall(r'<th scope="row"[^>]*>(\w+)<small>.*?<span class="value (\w*)">', page, re.DOTALL)
    assert dict(marks) == {"baseline": "", "text": "", "detail": "best", "sharp": "second"}
    assert r"\textbf{4.00}" in tex(study, rows) and r"\underline{3.00}" in tex(study, rows)
    assert "<dt>significant differences</dt><dd>3 of 3</dd>" in page


WINDOWED = """
name: toy
pipeline: toy
data: {kind: procedural, n: 5}
sampler: {steps: 8}
cells:
  baseline:
  whole: {ablate: temporal}
  early: {ablate: temporal, window: "0:4"}
  late: {ablate: temporal, window: "4:8"}
  every-second: {ablate: temporal, window: "::2"}
  noisy: {ablate: temporal, window: "0.5:1.0"}
  twice: {edits: [{kind: zero, at: a.z, steps: "0:4"}, {kind: zero, at: b.z}]}
  h0-early: {edits: [{kind: zero, at: a.z, heads: 0, steps: "0:4"}]}
  h0-late: {edits: [{kind: zero, at: "a.z[heads=0]@steps=4:8"}]}
  h1-early: {edits: [{kind: zero, at: a.z, heads: 1, steps: "0:4"}]}
  h1-late: {edits: [{kind: zero, at: a.z, heads: 1, steps: "4:8"}]}
  h1: {edits: [{kind: zero, at: "a.z[heads=1]"}]}
  cond-early: {ablate: temporal, window: "0:4", branch: cond}
  dear-early: {ablate: temporal, window: "0:4", sampler: {steps: 16}}
metrics: [m]
"""


def test_windows_join_cells_that_differ_in_nothing_else(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study, _ = parse_study(WINDOWED)
    cells = {}
    for name in study.cells:
        cells[name] = CellFolder(tmp_path / name)
        cells[name].root.mkdir()
        said = {"name": name, "sampler": {"steps": study.sampler_of(name).steps}, "metrics": {}, "weights": {}}
        (cells[name].root / "cell.yaml").write_text(json.dumps(said))
    shift = {name: () if name == "baseline" else (0.1, 0.0, 0.2, 0.5, 0.5) for name in cells}
    rows = [Result(name, "m", "m", 1.0, 0.9, 1.1, *shift[name], n=5) for name in cells]
    drawn: dict[str, list[Any]] = {}
    module = importlib.import_module("wanlab.plots.windows")
    windows = module.windows
    monkeypatch.setattr(module, "windows", lambda curves, *more: (drawn.update(curves), windows(curves, *more))[1])
    one = study.model_copy(update={"report": study.report.model_copy(update={"figures": ["windows"]})})
    assert [figure.stem for figure in draw(one, cells, rows, tmp_path / "figures")] == ["windows"]
    assert {title: [(w.effect.cell, w.start, w.stop) for w in curve] for title, curve in drawn.items()} == {
        "temporal": [("early", 0, 4), ("late", 4, 8), ("whole", None, None)],
        "zero a.z[heads=0]": [("h0-early", 0, 4), ("h0-late", 4, 8)],
        "zero a.z[heads=1]": [("h1-early", 0, 4), ("h1-late", 4, 8), ("h1", None, None)],
        "temporal branch=cond": [("cond-early", 0, 4)],
        "temporal steps=16": [("dear-early", 0, 4)],
    }


def test_a_report_can_be_given_other_settings_and_nothing_else(run: Callable[..., Any]) -> None:
    root, _ = run("again", "report.videos=0")
    before = (root / "study.yaml").read_bytes()
    report_study(root, resolve=resolve_toy, sets=["report.width=icml", "stats.confidence=0.8", "title=Another"])
    page = (root / "report" / "report.html").read_text()
    assert "<h1>Another</h1>" in page and "80 %" in page and (root / "study.yaml").read_bytes() == before
    with Image.open(root / "report" / "figures" / "forest.png") as image:
        assert image.width == 3.25 * 300
    with pytest.raises(StudyError, match=r"data\.n=2: a report can be given report, stats, title; anything else is another run"):
        report_study(root, resolve=resolve_toy, sets=["data.n=2"])


ALIKE = {
    "warp_error": "warp_error[farneback|reference]",
    "warp_error_self": "warp_error[farneback|self]",
    "lpips": "lpips[home-squeeze|uniform|s2|net:0]",
    "lpips[alexnet]": "lpips[alexnet:7be5be79]",
}


def test_metrics_that_share_a_name_before_the_bracket_stay_apart(study_and_cells: Any, tmp_path: Path) -> None:
    _, cells, _ = study_and_cells
    asked = "metrics: [warp_error, warp_error_self, lpips, 'lpips[alex]']"
    text = GRID.replace("metrics: [psnr, flicker]", asked).replace(", metrics: psnr", ", width: 5.5").replace("width: icml, ", "")
    study, _ = parse_study(text)
    rows = [
        Result(name, full, key, 1.0, 0.9, 1.1, *(() if name == "baseline" else (shift, 0.0, 0.2, 0.5, 0.5)), n=12, pairs=12)
        for name in cells
        for shift, (key, full) in enumerate(ALIKE.items())
    ]
    assert draw(study, cells, rows, tmp_path)
    for stem in ("forest", "heatmap", "windows", "cost"):  # of text in an SVG its letters stand in a comment
        drawn = "".join(page.read_text() for page in tmp_path.glob(f"{stem}*.svg"))
        said = re.sub(r"\s+", " ", " ".join(re.findall(r"<!-- (.*?) -->", drawn)))
        assert all(key.replace("_", " ").replace("[", " [") in said for key in ALIKE), stem
    assert not any("Left out" in sentence for sentence in cautions(study, rows))
    for name, key in (("warp_error_self", "warp_error_self"), ("lpips[alex]", "lpips[alexnet]"), (ALIKE["lpips"], "lpips")):
        one, _ = parse_study(text.replace("videos: 1", f"videos: 1, metrics: '{name}'"))
        assert {r.key for r in selected(one, rows)} == {key}
        assert f"& {escape(key.replace('_', ' ').replace('[', ' ['))} " in tex(one, rows)


def test_a_report_of_what_is_not_measured_is_refused() -> None:
    with pytest.raises(StudyError, match=r"15:50: report.metrics.1: this study does not measure 'fliker' \(did you mean 'flicker'"):
        parse_study(GRID.replace("metrics: psnr}", "metrics: [psnr, fliker]}"))


def test_a_trained_variant_is_removed_from_the_start_only_if_it_lacks_something() -> None:
    train = {"less": "detail.no_gan", "alike": "align.temporal_attention", "light": "detail.gan, set: {lam: 0.0}",
             "apart": "generator.unet, set: {temporal: false}", "still": "generator.unet, set: {align: none}"}  # fmt: skip
    cells = "".join(f"  {name}: {{train: {{part: {what}}}, pairs_with: text}}\n" for name, what in train.items())
    study, _ = parse_study(STUDY.replace("  detail:", cells + "  detail:", 1))
    start = "removed from the start"
    assert [_how(study, name) for name in (*train, "text")] == [start, "", start, start, start, "removed at inference"]
