"""Steering where the answer is known: a stream moves by the dose times the direction, and by nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.pipelines.conftest import folder, pipe  # noqa: F401
from wanlab.analysis import cells, features, probes, steering
from wanlab.analysis.cells import Cell, Seen
from wanlab.analysis.readers import Reader
from wanlab.analysis.steering import SteeringError
from wanlab.core import edit_from_dict

IMAGE = torch.linspace(0.2, 0.8, 64).expand(3, 64, 64)


def asked(pipe: Any, way: str, rows: int = 3) -> Any:  # noqa: F811
    return pipe.request(IMAGE, [f"a {colour} circle moves {way}" for colour in ("red", "green", "blue")[:rows]], list(range(rows)),
                        steps=2)


@pytest.fixture(scope="module")
def left(pipe: Any) -> steering.Direction:  # noqa: F811
    return steering.difference(pipe, [asked(pipe, "left")], [asked(pipe, "right")], "text.out")


def test_a_direction_takes_one_mean_to_the_other(pipe: Any, left: Any) -> None:  # noqa: F811
    means = {}
    for way in ("left", "right"):
        [block] = features.gather(features.pooled(pipe, [asked(pipe, way)], "text.out"))
        means[way] = block.values.double().mean(0)
    [(key, vector)] = left.vectors.items()
    assert key == ("text.out", None) and torch.allclose(vector, means["left"] - means["right"])
    assert left.where.branch == ("cond",) and left.length[key] == pytest.approx(float(vector.norm()))
    by_step = steering.difference(pipe, [asked(pipe, "left")], [asked(pipe, "right")], "fusion.{said,pooled}", steps=[1])
    assert list(by_step.vectors) == [("fusion.said", 1), ("fusion.pooled", 1)]
    assert [str(edit.where) for edit in by_step.edits(1.0)] == [f"fusion.{site}@steps=1,branch=cond" for site in ("said", "pooled")]


def test_the_dose_is_what_is_added_and_a_placebo_is_as_long(pipe: Any, left: Any) -> None:  # noqa: F811
    """The stream along the direction moves by the dose, across it not at all; along a random direction hardly."""
    vector = left.vectors["text.out", None].float()
    unit = vector / vector.norm()
    away = torch.linalg.qr(torch.stack([unit, torch.randn(len(unit), generator=torch.Generator().manual_seed(0))], 1)).Q[:, 1]

    def along(line: torch.Tensor) -> Any:
        return lambda seen: seen.outputs["cond.tokens"].mean(1) @ line

    metrics = {"along": along(unit), "across": along(away)}
    found = steering.doses(pipe, asked(pipe, "right"), left, metrics, doses=(-1, 0.5), read="text")
    table = found.table.set_index(["metric", "direction", "dose", "row"]).sort_index().change
    for dose in (-1.0, 0.5):
        assert np.allclose(table["along", "steered", dose], dose * float(vector.norm()), rtol=1e-3)
        assert np.allclose(table["across", "steered", dose], 0, atol=1e-5)
        for i in range(2):
            random = left.random(i).vectors["text.out", None].float()
            assert float(random.norm()) == pytest.approx(float(vector.norm()))
            assert np.allclose(table["along", f"random {i}", dose], dose * float(random @ unit), atol=1e-4)
    summary = found.summary.set_index(["metric", "direction", "dose"]).sort_index()
    line = summary.loc[("along", "steered", 0.5)]
    assert line.n == 3 and line.low <= line.change <= line.high
    assert line.change == pytest.approx(0.5 * float(vector.norm()), rel=1e-3)
    assert set(summary.index.get_level_values("direction")) == {"steered", "random 0", "random 1"}
    figure = found.figure(note="made up")
    assert [(axes.get_title(loc="left"), axes.get_xlabel()) for axes in figure.axes] == [("along", "dose"), ("across", "dose")]
    assert list(figure.axes[0].lines[1].get_xdata()) == [-1, 0, 0.5] and len(figure.axes[0].lines) == 1 + 3
    assert "n = 3 clips" in " ".join(text.get_text() for text in figure.texts)


def test_cells_are_data(pipe: Any, left: Any) -> None:  # noqa: F811
    laid_out = steering.cells(left, [-1, 0, 1], placebos=1)
    assert [cell.name for cell in laid_out] == ["0", "steered -1", "steered +1", "random 0 -1", "random 0 +1"]
    written = cells.study_cells(laid_out)
    assert written["random 0 +1"]["axes"] == {"direction": "random 0", "dose": "1"}
    assert edit_from_dict(written["steered -1"]["edits"][0]) == left.edits(-1)[0]
    pipe.check([edit for cell in laid_out for edit in cell.edits], asked(pipe, "right"))


def test_a_probe_gives_a_direction_that_moves_what_it_reads(pipe: Any) -> None:  # noqa: F811
    """On the text stream: steered by the weights of its class, the probe says that class of every prompt."""
    ways = ["left", "right", "up"]
    requests = [asked(pipe, way) for way in ways for _ in range(7)]
    for i, request in enumerate(requests):
        request.prompts[:] = [f"{'a' if i % 2 else 'the'} {colour} {shape} goes {ways[i // 7]}" for colour, shape in zip(
            ("red", "green", "blue"), (("circle", "star", "cross")[(i + k) % 3] for k in range(3)), strict=True)]
    [block] = features.gather(features.pooled(pipe, requests, "text.out"))
    found = probes.linear([block], {"way": np.repeat(ways, 21)})
    reader = found.reader("text.out", "way")
    assert float(found.table.accuracy.iloc[0]) > 0.9
    up = steering.of_probe(reader, "up", "text.out", pipe=pipe)

    def says(seen: Seen) -> list[float]:
        return [float(one == "up") for one in reader.read(seen.outputs["cond.tokens"].mean(1).double().numpy())]

    run = cells.run(pipe, requests[0], [Cell("plain"), Cell("steered", up.edits(3.0))], {"up": says}, read="text")
    assert run.groupby("cell", sort=False).value.mean().tolist() == [0.0, 1.0]


def test_what_cannot_be_steered_is_told(pipe: Any, left: Any) -> None:  # noqa: F811
    one, other = asked(pipe, "left"), asked(pipe, "right")
    with pytest.raises(SteeringError, match="same mean in both"):
        steering.difference(pipe, [one], [one], "text.out")
    with pytest.raises(SteeringError, match=r"axes 'b n k f d': its features differ by head"):
        steering.difference(pipe, [one], [other], "generator.mid.temporal.attn.z", steps=[0])
    with pytest.raises(SteeringError, match="no requests"):
        steering.difference(pipe, [], [other], "text.out")
    with pytest.raises(SteeringError, match="doses other than 0"):
        steering.cells(left, [0.0])
    reader = Reader(lambda x: x, 1.0, np.ones((2, 5)) * [[1], [2]], ("left", "right"), np.ones((2, 5)))
    with pytest.raises(SteeringError, match=r"the probe reads 5 features, text.out has axes 'b j c' of 64"):
        steering.of_probe(reader, "left", "text.out", pipe=pipe)
