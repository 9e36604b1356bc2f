"""A device gives what the CPU gives: videos, studies, trainings; in half precision nearly, and with too little memory in parts.

Here the CPU stands against itself, which shows that the tests are whole and is slow; under the marker `gpu` they hold a CUDA device
against it.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

import wanlab
from tests.contracts.test_cascade_contract import small
from tests.pipelines.wan import made
from tests.training.test_machine import BASE, log
from wanlab.core import Identity, Noise, Zero
from wanlab.graph import run_stage
from wanlab.runs.store import RunFolder
from wanlab.runs.study import run_study
from wanlab.training import machine
from wanlab.training.base import train_base
from wanlab.training.machine import Machine

VIDEO = 1e-3            # of [0, 1]: what sums in another order may change of a video in float32
FIGURE = 1e-2           # of its value: the same of a metric
LOSS = 1e-3             # of its value: the same of a loss in the first steps of a training
HALF = {torch.bfloat16: 0.1, torch.float16: 0.03}       # of [0, 1], on average over a video: what is left of 8 and of 11 bits
STUDY = """
name: two
pipeline: tiny
data: {kind: procedural, split: test, n: 2, seed: 0}
sampler: {steps: 1}
cells: {baseline: , temporal: {ablate: temporal}}
metrics: [psnr, flicker, adherence_psnr]
report: {videos: 0, figures: []}
"""

Run = Callable[..., Any]


@pytest.fixture(scope="module", params=[pytest.param("cpu", marks=pytest.mark.slow), pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, float32_products: None) -> str:
    """Where the pipelines are that are held against those on the CPU."""
    return request.param


@pytest.fixture(scope="module", params=["cascade", "i2v", "5b"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Any]:
    """Makes a small pipeline with random weights on the CPU, each time the same."""
    folder = tmp_path_factory.mktemp("small")
    return lambda: small(folder) if request.param == "cascade" else made(request.param)


def run(pipe: Any, *edits: Any, **more: Any) -> Any:
    side = 64 if "upsample" in dict(pipe.named_children()) else 32
    image = torch.rand(3, side, side, generator=torch.Generator().manual_seed(0))
    return pipe.generate(image, "a red circle moves left", seed=[0, 1], steps=2, guidance=2.0, edits=list(edits), **more)


@pytest.fixture
def deterministic() -> Iterator[None]:
    """torch's deterministic mode: an operation that has no deterministic form raises."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_the_video_and_what_flows_are_those_of_the_cpu(model: Callable[[], Any], device: str) -> None:
    latent = "sampler.video.latent"
    expected, found = (run(model().to(place), capture=[latent]) for place in ("cpu", device))
    assert found.video.device.type == "cpu" and (found.video - expected.video).abs().max() <= VIDEO
    assert torch.allclose(found.record[latent].tensor, expected.record[latent].tensor, atol=VIDEO, rtol=VIDEO)


def test_an_edit_does_there_what_it_does_on_the_cpu(model: Callable[[], Any], device: str) -> None:
    edits = [Noise("sampler.video.latent", 0.3, seed=1, steps=0), Zero("sampler.video.velocity", rows=1, branch="uncond")]
    plain, expected, found = run(model()), run(model(), *edits), run(model().to(device), *edits)
    assert (expected.video - plain.video).abs().max() > 10 * VIDEO
    assert found.ledger.ok and (found.video - expected.video).abs().max() <= VIDEO


def test_deterministic_mode_runs_and_gives_the_same_bytes(model: Callable[[], Any], device: str, deterministic: None) -> None:
    pipe, edits = model().to(device), [Noise("sampler.video.latent", 0.3, seed=1)]
    assert torch.equal(run(pipe, *edits).video, run(pipe, *edits).video)


@pytest.mark.parametrize("kind", ["i2v", "5b"])
@pytest.mark.parametrize("dtype", list(HALF))
def test_half_precision_gives_nearly_the_video_and_identity_its_bytes(kind: str, dtype: torch.dtype, device: str) -> None:
    whole, half = made(kind).to(device), made(kind).to(device)
    half.dit.cast(dtype)
    plain = run(half)
    assert plain.video.dtype == torch.float32 and plain.video.isfinite().all()
    assert 0 < (plain.video - run(whole).video).abs().mean() <= HALF[dtype]
    names = [site.name for site in half.sites("dit.**")]
    assert torch.equal(run(half, *(Identity(name) for name in names), capture=["dit.**"]).video, plain.video)


def test_a_study_has_the_figures_of_the_cpu(device: str, tmp_path: Path) -> None:
    file, tables = tmp_path / "study.yaml", []
    file.write_text(STUDY)
    for number, place in enumerate(("cpu", device)):
        folder, outcome = run_study(file, tmp_path / str(number), (), place, console=Console(file=io.StringIO()), report=False)
        assert len(outcome.done) == 2 and not outcome.failed
        tables.append([cell.samples() for _, cell in sorted(RunFolder(folder).cells().items())])
    for expected, found in zip(*tables, strict=True):
        assert expected["metric"] == found["metric"] and expected["index"] == found["index"]
        assert found["value"] == pytest.approx(expected["value"], rel=FIGURE)


def test_a_training_goes_the_way_that_it_goes_on_the_cpu(device: str, tmp_path: Path) -> None:
    losses = []
    for number, place in enumerate(("cpu", device)):
        with machine.on(Machine(device=torch.device(place))):
            trained = train_base(BASE, tmp_path / str(number))
        assert {value.device.type for value in trained.parameters()} == {torch.device(place).type}
        losses.append([row["loss"] for row in log(tmp_path / str(number) / "diffusion.jsonl") if "loss" in row])
    assert len(losses[0]) == 2 and losses[1] == pytest.approx(losses[0], rel=LOSS)


@pytest.mark.gpu
def test_a_batch_that_has_no_room_is_halved_and_gives_the_same_videos() -> None:
    pipe, rows = wanlab.load("tiny").to("cuda"), 32
    image = torch.rand(3, 128, 128)
    request = pipe.request(image, "a red circle moves left", seed=list(range(rows)), steps=1)
    inputs = {name: run_stage(pipe, name, {}, request, []) for name in pipe.node("denoise").inputs}

    def held(fits: dict[str, int]) -> tuple[Any, int]:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return run_stage(pipe, "denoise", inputs, request, [], fits=fits), torch.cuda.max_memory_reserved()

    whole, much = held({})
    _, little = held({"denoise": 1})
    assert much > 2 * little, "so many rows hold no more than one: nothing to halve"
    torch.cuda.empty_cache()
    fits: dict[str, int] = {}
    try:
        torch.cuda.set_per_process_memory_fraction((much + little) / 2 / torch.cuda.get_device_properties(0).total_memory)
        found, _ = held(fits)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 1 <= fits["denoise"] < rows
    assert all(torch.allclose(found[name], value, atol=VIDEO) for name, value in whole.items())
