"""Benchmarks: kept results are readable by one rule; the block without guards is the same block; no peer, no figures."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
RESULTS = sorted((FOLDER / "results").glob("*.json"))


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_results_follow_the_format(path: Path) -> None:
    result = json.loads(path.read_text())
    assert {"cpu", "cores", "python", "torch", "wanlab"} <= set(result["machine"])
    for row in result["rows"]:
        assert {"name", "value", "unit", "target", "met"} <= set(row), row
        measured = row["value"] is not None and math.isfinite(row["value"])
        assert measured or row["skipped"], row
        assert row["target"] is None or row["met"] in (True, False) or row["skipped"], row


def test_there_are_results() -> None:
    assert RESULTS


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Benchmarks import each other by name, as scripts of one folder do."""
    monkeypatch.syspath_prepend(str(FOLDER))


@pytest.mark.usefixtures("folder")
def test_the_block_without_its_guards_computes_the_same_and_fires_nothing() -> None:
    from blocks import Block, bare

    from wanlab.core import Probe

    block, x = Block(width=16, heads=2, hidden=32).eval(), torch.randn(1, 3, 16)
    plain = bare(block)
    with Probe(block) as probe:
        wanted = block(x)
    with Probe(plain) as silent:
        assert torch.equal(plain(x), wanted)
    assert all(site.shape for site in probe.sites) and not any(site.shape for site in silent.sites)
    assert {id(p) for p in plain.parameters()} == {id(p) for p in block.parameters()}


@pytest.mark.usefixtures("folder")
def test_the_ways_to_the_trace_term_agree_and_the_package_is_not_the_benchmark() -> None:
    """benchmarks/metrics.py has the name of the package; run as a script it must still find the package."""
    spec = importlib.util.spec_from_file_location("benchmark_of_metrics", FOLDER / "metrics.py")
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    rows = list(benchmark.trace_at(24, 0.7, 3, True, "cpu"))
    assert [row.unit for row in rows] == ["s", "s", "s", "ratio"] and rows[-1].met in (True, False)
    exact = {row.name.split(", ")[-1]: row.value for row in benchmark.exactness()}
    assert abs(exact["features"]) < 1e-9 and abs(exact["moments"]) < 1e-9
    code = "import sys; sys.path.insert(0, sys.argv[1]); import harness, metrics; print(metrics.frechet_distance.__module__)"
    run = subprocess.run([sys.executable, "-c", code, str(FOLDER)], cwd=FOLDER.parent, capture_output=True, text=True)
    assert run.stdout.strip() == "metrics.frechet", run.stderr


@pytest.mark.usefixtures("folder")
def test_what_is_timed_on_cuda_runs_on_a_cpu_at_a_small_size() -> None:
    import wan

    from wanlab.stages.dit import Config

    config, shape = Config(heads=2, head_width=16, depth=2, hidden=32, text_width=32), (1, 3, 16, 4, 4)
    with torch.no_grad():
        rows = [*wan.forward(config, shape, "cpu", 2), *wan.large(config, shape, "cpu", 2)]
    assert [(row.name, row.unit) for row in rows] == [*wan.FORWARD_ROWS, *wan.LARGE_ROWS]
    assert all(row.value > 0 for row in rows[:-1]) and rows[-1].skipped == "no CUDA device"
    assert [row.skipped for row in wan.full_size(True, "cpu")] == ["no CUDA device"] * len(rows)


@pytest.mark.usefixtures("folder")
def test_what_is_timed_of_the_article_on_cuda_runs_on_a_cpu_at_a_small_size(monkeypatch: pytest.MonkeyPatch) -> None:
    import cascade

    monkeypatch.setattr(torch, "compile", lambda module: module)       # takes minutes; tests of the stages compile them
    with torch.no_grad():
        rows = list(cascade.article("article-random-tiny", "cpu", 2))
        *nodes, speed, share, compiled = rows
    names = ("text", "image", "denoise", "upsample.0", "upsample.1", "detail")
    assert [row.name for row in nodes] == [f"article, {name}" for name in names]
    assert [(row.name, row.unit) for row in (speed, share, compiled)] == [*cascade.ARTICLE_ROWS]
    assert all(row.value > 0 for row in rows)
    assert {row.skipped for row in cascade.full_size(True, "cpu")} == {"no CUDA device"}


@pytest.mark.usefixtures("folder")
def test_maps_are_compared_clip_by_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    """One method finds the object in all clips but the first, the other in every second: where both do is what counts."""
    import localisation

    mask = np.zeros((2, 8, 8))
    mask[:, 2, 3] = 1
    lost, first = np.roll(mask, 4, -1), localisation.FIRST
    monkeypatch.setattr("wanlab.load", lambda name: None)
    monkeypatch.setattr(localisation, "clips", lambda pipe, count: [(index, None, "", "") for index in range(6)])
    monkeypatch.setattr(localisation, "truths", lambda *given: ({"true clip": mask}, {}))
    monkeypatch.setattr(localisation, "methods", lambda pipe, index, *given: {
        first: mask if index else lost, "other": lost if index % 2 else mask})
    monkeypatch.setattr(localisation, "tracked", lambda *given: {"DiffTrack": 0.5})
    rows = {row.name: (row.value, row.interval) for row in localisation.rows(True, "cpu")}
    value, (low, high) = rows[f"{first}, true clip: pointing"]
    assert value == pytest.approx(5 / 6) and low < value < high == 1
    value, (low, high) = rows[f"other less {first}, true clip: pointing"]
    assert value == pytest.approx(-1 / 3) and -1 < low < value < high
    assert rows["DiffTrack"] == (0.5, (0.5, 0.5)) and rows["other, true clip: chance"][0] == pytest.approx(1 / 64)


@pytest.mark.usefixtures("folder")
def test_a_missing_peer_is_an_error_that_names_it() -> None:
    from harness import peers

    with pytest.raises(SystemExit, match="no-such-peer, which is not installed"):
        peers({"no-such-peer": "1."})
    with pytest.raises(SystemExit, match=r"pytest 0\.1\.\*"):
        peers({"pytest": "0.1."})


@pytest.mark.usefixtures("folder")
def test_the_study_that_is_timed_is_the_mix_that_its_head_states() -> None:
    import studies

    from wanlab.runs.reading import parse_study

    study, _ = parse_study(studies.STUDY)
    at = {name: {edit["at"].split(".")[0] for edit in cell.edits} for name, cell in study.cells.items()}
    assert len(at) == 30 and sum(bool(places) and "generator" not in places for places in at.values()) == 23
    plain, _ = parse_study(studies.STUDY, studies.PLAIN)
    assert (plain.share.cache, plain.share.fork, plain.share.pack) == (False, False, 1) and plain.hash == study.hash
