"""Reports: the page, the tables and the figures of a finished run."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.runs.toy import STUDY, Toy, load_toy, resolve_toy
from wanlab.runs.reading import parse_study
from wanlab.runs.report.numbers import decimals, in_order, ranked, shown
from wanlab.runs.report.tables import escape, tex
from wanlab.runs.stats import Result
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
    rows = [Result(c, m, 0.12345, 0.12, 0.13, -0.01, -0.02, 0.01, 0.1, 0.1, 9, "lower") for m in metrics for c in cells]
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
    return [Result(name, "m", value, value - 0.1, value + 0.1, n=9, better=better) for name, value in values.items()]


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
    assert in_order(study, list(study.cells)) == ["baseline", "text", "detail", "sharp", "both"]
    assert in_order(study, ["sharp", "baseline"]) == ["baseline", "sharp"]


def test_figures_embed_true_type_fonts_at_the_exact_width(root: Path) -> None:
    from PIL import Image

    pdf = (root / "report" / "figures" / "forest.pdf").read_bytes()
    assert b"/Type3" not in pdf and b"/CreationDate" not in pdf
    width = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+)", pdf)
    assert width is not None and float(width.group(1)) == pytest.approx(5.5 * 72)
    with Image.open(root / "report" / "figures" / "forest.png") as image:
        assert image.width == 5.5 * 300
