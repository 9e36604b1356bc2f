"""The pipeline of a study: a word or a mapping, weights from anywhere, and what of it decides results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.pipelines import published
from tests.pipelines.wan import small
from wanlab.pipelines import load as loading
from wanlab.pipelines import wan_presets
from wanlab.pipelines.wan_parts import random_pipeline
from wanlab.runs.cautions import cautions
from wanlab.runs.cell import open_workbench
from wanlab.runs.document import StudyError
from wanlab.runs.model import Model
from wanlab.runs.opening import opened
from wanlab.runs.reading import load_study, parse_study
from wanlab.runs.spec import Study

STUDY = """
name: model
pipeline: wan2.1-t2v-1.3b
data: {kind: procedural, n: 2}
cells: {baseline: }
metrics: [psnr]
"""


def read(*sets: str) -> Study:
    return parse_study(STUDY, sets)[0]


def test_a_word_is_a_name_and_more_may_be_said_of_it() -> None:
    word, mapping = read(), read("pipeline={name: wan2.1-t2v-1.3b}")
    assert word == mapping and word.hash == mapping.hash and word.resolved()["pipeline"] == "wan2.1-t2v-1.3b"
    more = read("pipeline.path=~/models/Wan", "pipeline.dtype=bfloat16", "pipeline.size=[32, 48]")
    assert more.pipeline == Model(name="wan2.1-t2v-1.3b", path=Path("~/models/Wan"), dtype="bfloat16", size=[32, 48])
    assert Study.model_validate(more.resolved()) == more


def test_reports_call_it_by_its_name_and_say_what_weights_it_had() -> None:
    more = read("pipeline.path=/models/Wan", "data={kind: image, path: a.png, prompts: [x]}")
    assert str(more.pipeline) == str(read().pipeline) == "wan2.1-t2v-1.3b" and str(Model(path=Path("/models/Wan"))) == "/models/Wan"
    picture = "data={kind: image, path: a.png, prompts: [x]}"
    drawn, shipped = (cautions(read(f"pipeline={name}", picture), []) for name in ("wan-random-tiny", "tiny"))
    told = [text for text in (*cautions(more, []), *drawn, *shipped) if "drawn at random" in text or "rendered shapes" in text]
    assert len(told) == 2 and "drawn at random" in told[0] and "rendered shapes" in told[1]


def test_where_weights_lie_is_no_part_of_the_hash_and_how_they_are_used_is() -> None:
    told = ("pipeline.path=/models/Wan", "pipeline.verify=true", "pipeline.offload=false", "pipeline.parts={dit: a.safetensors}")
    assert read(*told).hash == read().hash
    others = [read(f"pipeline.{one}").hash for one in ("dtype=float16", "frames=5", "scheduler=euler", "shift=5")]
    assert len({read().hash, *others}) == 5


@pytest.mark.parametrize(("setting", "says"), [
    ("pipeline.pth=x", "pipeline.pth: unknown key (did you mean 'path'?)"), ("pipeline.dtype=bf16", "did you mean 'bfloat16'?"),
    ("pipeline={}", "a pipeline needs a name, or the path"), ("pipeline=3", "expected the name of a pipeline, or a mapping"),
    ("pipeline.offload=often", "'often' is not one of True, False"),
])  # fmt: skip
def test_mistakes_are_told_where_they_stand(setting: str, says: str) -> None:
    with pytest.raises(StudyError) as told:
        read(setting)
    assert says in str(told.value)


def test_what_is_said_reaches_the_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Any, dict[str, Any]]] = []
    monkeypatch.setattr(loading, "load", lambda name, **settings: seen.append((name, settings)))
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("here", "beside/there", "beside/mine"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "beside" / "study.yaml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)

    def asked(*sets: str) -> tuple[Any, dict[str, Any]]:
        study = load_study(tmp_path / "beside" / "study.yaml", [f"pipeline.{one}" for one in sets])[0]
        opened(study.pipeline, "cpu", None, study.find)
        return seen.pop()

    plain = {"init": None, "device": "cpu", "offload": "auto"}
    assert asked() == ("wan2.1-t2v-1.3b", plain)
    assert asked("path=here", "offload=true") == ("wan2.1-t2v-1.3b", {**plain, "offload": True, "path": Path("here")})
    assert asked("path=there")[1]["path"] == tmp_path / "beside" / "there"        # beside the study file
    assert asked("path=~/here")[1]["path"] == tmp_path / "here"
    assert asked("path=Wan-AI/Wan2.1-T2V-1.3B")[1]["path"] == "Wan-AI/Wan2.1-T2V-1.3B"
    sizes = "size=[32, 48]", "frames=5", "scheduler=euler", "shift=2"
    told = asked("parts={dit: mine}", "dtype=float16", "verify={a: b}", *sizes)[1]
    assert told == {**plain, "parts": {"dit": tmp_path / "beside" / "mine"}, "dtype": torch.float16, "verify": {"a": "b"},
                    "size": (32, 48), "frames": 5, "scheduler": "euler", "shift": 2.0}
    assert asked("name=null", "path=here") == (Path("here"), plain)
    with pytest.raises(StudyError, match=r"neither here .* nor beside the study file"):
        asked("path=nowhere")


def test_a_place_that_is_nowhere_and_settings_of_others_are_told_at_their_key(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY.replace("pipeline: wan2.1-t2v-1.3b", "pipeline: {name: tiny, path: nowhere}"))
    for sets, says in (((), "study.yaml:3:"), (("pipeline.path=null", "pipeline.frames=5"), "tiny takes no frames")):
        study, document = load_study(tmp_path / "study.yaml", sets)
        with pytest.raises(StudyError, match=says):
            open_workbench(study, document)


@pytest.mark.slow
def test_content_keys_tell_which_weights_and_not_from_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(wan_presets.PRESETS, "wan-small", preset := small("t2v"))
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        published.write(random_pipeline(preset, seed), tmp_path / name)

    def key(folder: str, *sets: str) -> str:
        told = ["pipeline=wan-small", f"pipeline.path={tmp_path / folder}", "sampler.steps=1", *sets]
        return open_workbench(*parse_study(STUDY, told)).plan.cells["baseline"].key

    assert key("a") == key("b") and len({key("a"), key("c"), key("a", "pipeline.dtype=bfloat16")}) == 3
