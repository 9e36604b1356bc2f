"""Cells that train first: one training for all that ask for the same, found again, continued, told where it fails."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from wanlab.pipelines.cascade import Cascade
from wanlab.pipelines.load import PRESETS, load
from wanlab.runs.cell import open_workbench
from wanlab.runs.document import StudyError
from wanlab.runs.reading import parse_study
from wanlab.runs.spec import Train
from wanlab.runs.store import RunFolder
from wanlab.runs.study import run_study
from wanlab.runs.trainings import equipped, train_missing, training_of
from wanlab.stages.align import NoAlign
from wanlab.training import Watch, ablation, content, presets, watched_by
from wanlab.training.ablation import retraining
from wanlab.training.checkpoint import load as load_checkpoint

ROOT = Path(__file__).resolve().parents[2]
QUICK = "{clips: 2, held: 1, content_steps: 2, gan_steps: 2, batch: 1, crop: 16}"
STUDY = f"""
name: retrain
data: {{kind: procedural, n: 1}}
sampler: {{steps: 1, guidance: 1.0}}
cells:
  baseline:
  gan_head: {{ablate: gan_head}}
  retrained: {{train: {{part: detail.no_gan, set: {QUICK}}}, pairs_with: gan_head}}
  both: {{train: {{part: detail.no_gan, set: {QUICK}}}, ablate: residual}}
metrics: [sharpness]
report: {{videos: 0}}
"""


@pytest.fixture(scope="module")
def tiny() -> Cascade:
    return load("tiny")


def run(tmp_path: Path, out: str, text: str = STUDY) -> tuple[Path, str]:
    file, said = tmp_path / "study.yaml", io.StringIO()
    file.write_text(text)
    sets = [f"cache.trainings={tmp_path / 'trainings'}"]
    root, outcome = run_study(file, tmp_path / out, sets, "cpu", console=Console(file=said, width=200), report=False)
    return root, f"{said.getvalue()}\nfailed: {outcome.failed}"


def test_one_training_serves_all_its_cells_and_later_studies(tmp_path: Path) -> None:
    root, said = run(tmp_path, "out")
    assert said.count("detail.no_gan for retrained, both  part 1 of 1") == 1 and said.endswith("failed: {}")
    (home,) = (tmp_path / "trainings").iterdir()
    before = {file: file.stat().st_mtime_ns for file in home.iterdir()}

    cells = RunFolder(root).cells()
    weights = {name: cell.description()["weights"] for name, cell in cells.items()}
    assert weights["retrained"]["detail"] == weights["both"]["detail"] != weights["baseline"]["detail"]
    assert weights["retrained"]["denoise"] == weights["baseline"]["denoise"]
    values = {name: cell.samples()["value"][0] for name, cell in cells.items()}
    assert len(set(values.values())) == 4

    other = STUDY.replace("name: retrain", "name: other").replace("  both:", "  more:")
    study, document = parse_study(other, [f"cache.trainings={tmp_path / 'trainings'}"])
    plan = open_workbench(study, document).plan
    assert not train_missing(study, plan, Console(file=io.StringIO()))
    assert before == {file: file.stat().st_mtime_ns for file in home.iterdir()}
    assert [keys["detail"] for keys in plan.cells["retrained"].keys] == cells["retrained"].description()["outputs"]


def test_a_plan_tells_trainings_apart_before_they_are_trained(tmp_path: Path) -> None:
    text = STUDY.replace("  both: {train: {part: detail.no_gan, ", "  both: {train: {seed: 7, part: detail.no_gan, ")
    study, document = parse_study(text, [f"cache.trainings={tmp_path}"])
    plan = open_workbench(study, document).plan
    last = {name: cell.keys[0]["detail"] for name, cell in plan.cells.items()}
    assert len(set(last.values())) == 4 and not any(tmp_path.iterdir())
    first = {cell.keys[0]["denoise"] for cell in plan.cells.values()}
    assert len(first) == 1


def test_a_training_that_fails_fails_its_cells_alone(tmp_path: Path) -> None:
    text = STUDY.replace("crop: 16}", "crop: 16, rate: 1.0e+30}")
    kept = [line for line in text.splitlines() if not line.startswith(("  gan_head", "  both"))]
    root, said = run(tmp_path, "out", "\n".join(kept).replace(", pairs_with: gan_head", ""))
    assert "detail.no_gan is not trained: Diverged: the loss of content" in said
    assert set(RunFolder(root).cells()) == {"baseline"}


def test_mistakes_in_a_training_are_told_at_its_place() -> None:
    with pytest.raises(StudyError, match=r":8:22: cells.retrained.train: stage detail has no variant 'no_gn'; nearest: no_gan"):
        open_workbench(*parse_study(STUDY.replace("detail.no_gan", "detail.no_gn")))
    with pytest.raises(StudyError, match=r":8:29: cells.retrained.train.part: string should match pattern"):
        parse_study(STUDY.replace("detail.no_gan", "detail"))


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"part": "detail.no_gan", "set": {"lamb": 0}}, "unknown setting 'lamb'; nearest: lam"),
        ({"part": "align.none"}, "the weights of align.none carry no recipe"),
        ({"part": "detail.gan", "recipe": "missing.yaml"}, "missing.yaml: no such file"),
        ({"part": "detail.gan", "recipe": ROOT / "experiments" / "quickstart.yaml"}, "a training file of kind: cascade is wanted"),
        ({"part": "discriminator.gan", "recipe": ROOT / "experiments" / "train" / "tiny.yaml"}, "makes no discriminator.gan"),
    ],
)
def test_mistakes_in_trainings(train: dict, expected: str, tiny: Cascade) -> None:
    with pytest.raises((ValueError, LookupError), match=expected):
        training_of(Train(**train), tiny, parse_study(STUDY)[0])


@pytest.mark.parametrize("text", ["base: 5", "variants: [1]", "detail: [1]", "detail: {no_gan: 5}", "base: {ships: [1]}",
                                  "variants: {a: {ships: [1]}}", "detale: {}"])  # fmt: skip
def test_a_recipe_file_is_held_to_what_training_holds_it_to(text: str, tiny: Cascade, tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(f"kind: cascade\n{text}\n")
    with pytest.raises(ValueError, match=text.partition(":")[0]):
        training_of(Train(part="detail.no_gan", recipe=tmp_path / "r.yaml"), tiny, parse_study(STUDY)[0])


def test_the_recipe_of_the_weights_and_of_the_file_are_one() -> None:
    from wanlab.runs.document import read

    given = read(ROOT / "experiments" / "train" / "tiny.yaml").data
    for part in ("generator.no_temporal", "generator.no_align", "upsample.no_residual", "detail.gan", "detail.no_gan", "text.t5"):
        assert retraining(PRESETS / "tiny", part, given).key == retraining(PRESETS / "tiny", part).key


def test_what_costs_nothing_keeps_the_key_and_what_changes_weights_does_not() -> None:
    keys = [
        retraining(PRESETS / "tiny", "detail.no_gan", changes=changes, seed=seed).key
        for changes, seed in (({}, None), ({"pool": "somewhere"}, None), ({"lam": 0.2}, None), ({}, 1), ({"gan_steps": 2}, None))
    ]
    assert keys[0] == keys[1] and len(set(keys)) == 4


def test_a_variant_without_a_part_starts_from_the_shipped_weights(tmp_path: Path, tiny: Cascade) -> None:
    quick = {"steps": 1, "clips": 4, "held": 4, "batch": 2}
    job = retraining(PRESETS / "tiny", "generator.no_temporal", changes=quick)
    job.train(tmp_path)
    ((variant, entry),) = job.weights(tmp_path).values()
    from wanlab.pipelines.load import adopt

    pipe = adopt(tiny, "generator", variant, entry)
    near = tiny.generator.state_dict()
    moved = [key for key, value in pipe.generator.state_dict().items() if (value - near[key]).abs().max() > 0.01]
    assert entry["config"]["temporal"] is False and not moved  # one step away from where it started


SHORT = {"steps": 1, "grounding_steps": 1, "clips": 4, "held": 4, "batch": 2, "grounding_batch": 2}


@pytest.mark.parametrize(("part", "changes", "ships"), [
    ("generator.no_align", {}, {"generator": "no_align"}),
    ("generator.no_temporal", {"align": "none"}, {"generator": "no_temporal"}),
    ("generator.unet", {"align": "none"}, {"text": "t5", "image": "dit", "fusion": "cross_attention", "generator": "unet",
                                           "align": "none"}),
])  # fmt: skip
def test_what_is_trained_without_alignment_runs_without(
    part: str, changes: dict, ships: dict, tiny: Cascade, tmp_path: Path
) -> None:
    """Before it is trained, as a plan sees it, and after."""
    job = retraining(PRESETS / "tiny", part, changes=SHORT | changes)
    assert job.ships == ships
    planned = equipped(tiny, job, tmp_path)
    assert isinstance(planned.align, NoAlign)
    job.train(tmp_path)
    pipe = equipped(tiny, job, tmp_path)
    assert isinstance(pipe.align, NoAlign) and pipe.config["variants"]["generator"].startswith(part.partition(".")[2] + "@")
    assert pipe.generate(torch.rand(3, 128, 128), "a red circle moves left", seed=0, steps=1).video.isfinite().all()


def test_stages_that_a_training_ships_together_stand_together(tiny: Cascade, tmp_path: Path) -> None:
    """The alignment that was trained beside a generator, not the shipped one of that name."""
    ships = {"align": "temporal_attention", "generator": "unet"}
    job = retraining(PRESETS / "tiny", "generator.unet", changes=SHORT | {"align": "temporal_attention", "ships": ships})
    assert "with" not in job.entry["generator"]
    assert equipped(tiny, job, tmp_path).config["variants"]["align"] == f"temporal_attention@{job.key[:8]}"


def test_what_a_unet_predicts_is_said_of_it_and_asked_of_what_starts_from_it(tiny: Cascade, tmp_path: Path) -> None:
    job = retraining(PRESETS / "tiny", "generator.unet", changes=SHORT | {"predicts": "v"})
    assert job.entry["generator"]["config"]["predicts"] == "v" and equipped(tiny, job, tmp_path).generator.config.predicts == "v"
    with pytest.raises(ValueError, match=r"the UNet of .*tiny predicts x0, and this one v: say predicts: x0"):
        retraining(PRESETS / "tiny", "generator.no_temporal", changes={"predicts": "v"})


@pytest.mark.parametrize(("part", "changes", "said"), [
    ("generator.no_align", {"align": "flow_warp"}, "no_align of generator is trained with align: none, and this .* flow_warp"),
    ("generator.no_temporal", {"temporal": True}, "no_temporal of generator has temporal: False, and what .* has temporal: True"),
    ("align.flow_warp", {"align": "none"}, r"the recipe of align\.flow_warp ships .*align\.none, not align\.flow_warp"),
])  # fmt: skip
def test_a_part_is_what_its_name_says(part: str, changes: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        retraining(PRESETS / "tiny", part, changes=changes)


def test_the_key_of_a_training_has_all_that_decides_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def key(part: str = "detail.no_gan") -> str:
        return retraining(PRESETS / "tiny", part).key

    before, levels = key(), key("upsample.residual")
    with monkeypatch.context() as patch:
        (tmp_path / "vgg.safetensors").write_bytes(b"another content network")
        patch.setattr(content, "WEIGHTS", tmp_path / "vgg.safetensors")
        assert key() != before and key("upsample.residual") == levels       # which is trained without L_content
    with monkeypatch.context() as patch:
        patch.setattr(ablation.metadata, "version", lambda name: "0.0.1")
        assert key() != before
    (tmp_path / "tiny").mkdir()
    manifest = (PRESETS / "tiny" / "pipeline.json").read_text()
    (tmp_path / "tiny" / "pipeline.json").write_text(manifest.replace('"gan_blocks": 2', '"gan_blocks": 3'))
    monkeypatch.setattr(presets, "PRESETS", tmp_path)
    assert key() != before and key("upsample.residual") == levels


class Broken(Watch):
    """Whoever asks for an end after the third step of the second network."""

    def begin(self, name: str, done: int, steps: int, checkpoint: Path | None = None) -> None:
        self.name = name

    def step(self, done: int, loss: float) -> None:
        self.stopping = "texture" in self.name and done >= 2


def test_a_training_that_is_stopped_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    quick = {"clips": 2, "held": 1, "content_steps": 1, "gan_steps": 4, "batch": 1, "crop": 16}
    job = retraining(PRESETS / "tiny", "detail.no_gan", changes=quick)
    with pytest.raises(KeyboardInterrupt), watched_by(Broken()):
        job.train(tmp_path / "stopped")
    assert not job.finished(tmp_path / "stopped")
    sums = []
    for name in ("stopped", "whole"):
        job.train(tmp_path / name)
        sums.append(job.weights(tmp_path / name)["detail"][1]["sha256"])
    assert sums[0] == sums[1]


class Keeping(Watch):
    """Whoever keeps each checkpoint of the second level, as FOLDER/STEP.pt."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint, self.folder = checkpoint, folder

    def begin(self, name: str, done: int, steps: int, checkpoint: Path | None = None) -> None:
        self.name = name

    def step(self, done: int, loss: float) -> None:
        if done in (100, 130) and "level1" in self.name:
            shutil.copy(self.checkpoint, self.folder / f"{done}.pt")


def unlike(one: Path, other: Path) -> list[str]:
    """The weights in which two checkpoints differ."""
    states = [load_checkpoint(path) for path in (one, other)]
    return [f"{part}.{name}" for part in ("model", "average") for name, value in states[0][part].items()
            if not torch.equal(value, states[1][part][name])]


KILLED = """
import sys
from pathlib import Path
from wanlab.pipelines.load import PRESETS
from wanlab.training.ablation import retraining
retraining(PRESETS / "tiny", "upsample.no_residual", changes={changes}).train(Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_a_training_that_is_killed_goes_on_to_the_same_weights(tmp_path: Path) -> None:
    changes = {"clips": 2, "held": 1, "steps": [1, 130], "batch": [1, 1], "crop": [8, 8]}
    job = retraining(PRESETS / "tiny", "upsample.no_residual", changes=changes)
    checkpoint = job.home(tmp_path / "killed") / "no_residual.level1.pt"
    command = [sys.executable, "-c", KILLED.replace("{changes}", repr(changes)), str(tmp_path / "killed")]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)})
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not job.finished(tmp_path / "killed")
    shutil.copy(checkpoint, tmp_path / "killed.pt")
    with watched_by(Keeping(job.home(tmp_path / "whole") / checkpoint.name, tmp_path)):
        job.train(tmp_path / "whole")
    step = load_checkpoint(tmp_path / "killed.pt")["step"]
    assert not unlike(tmp_path / "killed.pt", tmp_path / f"{step}.pt")  # until the kill: two processes compute the same
    job.train(tmp_path / "killed")
    sums = [job.weights(tmp_path / name)["upsample"][1]["sha256"] for name in ("killed", "whole")]
    assert sums[0] == sums[1]
