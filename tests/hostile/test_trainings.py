"""Training files, bad ones: one message with the place, before anything is drawn or written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.hostile.cases import answer, every, full
from tests.hostile.studies import TRAININGS, trainings
from wanlab.nn.vgg import FILES
from wanlab.pipelines.load import PRESETS
from wanlab.runs.document import parse
from wanlab.training import cascade, judges
from wanlab.training.ablation import retraining


@full
def test_training_files(whole: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They name no file that is here, as a rule, and nothing is made where they are read."""
    monkeypatch.chdir(tmp_path)

    def plan(text: str) -> object:
        data = parse(text).data
        if not isinstance(data, dict):
            return data
        return judges.demand(data) if data.get("kind") == "judges" else cascade.planned(data, tmp_path / "out")

    def ask(text: str) -> object:
        """The same file as the recipe of a cell in a study."""
        data = parse(text).data
        if not isinstance(data, dict) or data.get("kind") != "cascade":
            return data
        cascade.planned(data, tmp_path / "out")
        return retraining(PRESETS / "tiny", "detail.no_gan", data)

    def case(text: str) -> None:
        answer(lambda: plan(text), ValueError)
        answer(lambda: ask(text), ValueError, LookupError)

    every("training files", whole, trainings(), case)
    assert not any(tmp_path.iterdir())


def test_the_shipped_ones_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    (network := Path(torch.hub.get_dir()) / "checkpoints" / FILES["vgg16"]).parent.mkdir(parents=True)
    network.touch()                                                 # for article.yaml: plans look whether it is there
    assert [data["kind"] for data in TRAININGS] == ["cascade", "judges", "cascade", "cascade", "cascade"]
    for data in TRAININGS:
        answered = answer(lambda data=data: judges.demand(data) if data["kind"] == "judges" else cascade.planned(data, tmp_path))
        assert not isinstance(answered, str)
