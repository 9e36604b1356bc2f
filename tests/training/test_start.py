"""What a training starts from: another's weights, as far as they fit; what does not fit is told, or refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from wanlab.pipelines.load import PRESETS
from wanlab.training import Watch, checkpoint, watched_by
from wanlab.training import base as module
from wanlab.training.base import train_base
from wanlab.training.cascade import planned
from wanlab.training.diffusion import Base, Recipe
from wanlab.training.distil import distil_losses
from wanlab.training.settings import stated
from wanlab.training.start import kinds_of, take_over

SHIPPED = PRESETS / "tiny"


class Listener(Watch):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def saved(path: Path, average: dict[str, Any], recipe: Recipe | None = None) -> Path:
    """A checkpoint as trainings write them."""
    state = {key: {} for key in checkpoint.KEYS}
    checkpoint.save(path, **{**state, "average": average, "recipe": stated(recipe) if recipe else {}})
    return path


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    base = Base(Recipe())
    detail = saved(tmp_path / "content.pt", {"content.0.weight": torch.zeros(3), "texture.0.weight": torch.zeros(3)})
    with pytest.raises(ValueError, match=r"has no stage of this model: of its 2 tensors \(content \(1\), texture \(1\)\) 0 fit"):
        take_over(base, detail)
    other = saved(tmp_path / "other.pt", Base(Recipe(preset="article-random-tiny", init="random")).state_dict())
    with pytest.raises(ValueError, match=r"other\.pt has no stage of this model"):
        take_over(base, other)


def test_a_stage_that_does_not_learn_is_filled_or_the_training_is_refused() -> None:
    base = Base(Recipe(fusion="film"))
    with pytest.raises(ValueError, match=r"does not fill what is not to learn, .* fits fusion \(\d+\): let it learn \(train:\)"):
        take_over(base, SHIPPED, ("align",))


def test_what_was_not_taken_over_is_told() -> None:
    base, listener = Base(Recipe(fusion="film")), Listener()
    with watched_by(listener):
        take_over(base, SHIPPED, ("fusion", "classify"))
    (note,) = listener.notes
    assert "new is classify (2), fusion (" in note and "left there is fusion (" in note and "generator" not in note
    whole = Listener()
    with watched_by(whole):
        take_over(Base(Recipe(align="none")), SHIPPED, ("generator",))          # an alignment without weights needs none
    assert "new is classify (2); left there is align (" in whole.notes[0]


def shifted(folder: Path) -> Path:
    """The shipped pipeline, of which it is said that its UNet predicts v."""
    shutil.copytree(SHIPPED, folder)
    manifest = json.loads((folder / "pipeline.json").read_text())
    manifest["stages"]["generator"]["variants"]["unet"]["config"]["predicts"] = "v"
    (folder / "pipeline.json").write_text(json.dumps(manifest))
    return folder


def test_a_unet_does_not_start_from_one_that_predicts_something_else(tmp_path: Path) -> None:
    recipe = Recipe(predicts="v")
    base = Base(recipe)
    with pytest.raises(ValueError, match=r"the UNet of .*tiny predicts x0, and this one v: say predicts: x0"):
        take_over(base, SHIPPED)
    take_over(base, shifted(tmp_path / "v"))
    file = saved(tmp_path / "v.pt", base.state_dict(), recipe)
    take_over(Base(recipe), file)
    with pytest.raises(ValueError, match=r"v\.pt predicts v, and this one x0: say predicts: v"):
        take_over(Base(Recipe()), file)


def test_that_is_told_before_the_base_is_trained(tmp_path: Path) -> None:
    variant = {"train": ["generator"], "temporal": False, "ships": {"generator": "no_temporal"}}
    given: dict[str, Any] = {"kind": "cascade", "base": {"predicts": "v"}, "variants": {"x": variant}}
    with pytest.raises(ValueError, match=r"variants\.x: start: the UNet of .*base/diffusion\.pt predicts v, and this one x0"):
        planned(given, tmp_path)
    assert len(planned({**given, "variants": {"x": {**variant, "predicts": "v"}}}, tmp_path)) == 2
    alone = {"kind": "cascade", "variants": {"x": {**variant, "start": str(shifted(tmp_path / "v"))}}}
    with pytest.raises(ValueError, match=r"variants\.x: start: the UNet of .*/v predicts v, and this one x0"):
        planned(alone, tmp_path)


def test_the_teacher_is_what_the_start_was_trained_as(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kinds_of(SHIPPED) == {"image": "dit", "fusion": "cross_attention", "align": "flow_warp", "temporal": True}
    was = Recipe(predicts="v", temporal=False, fusion="concat")
    start = saved(tmp_path / "start.pt", Base(was).state_dict(), was)
    teachers = []

    def seen(base: Base, teacher: Base, *args: Any) -> Any:
        teachers.append(teacher)
        return distil_losses(base, teacher, *args)

    monkeypatch.setattr(module, "distil_losses", seen)
    asked = replace(was, start=str(start), fusion="film", train=("fusion", "classify"), distil_steps=1, distil_batch=2, steps=0,
                    batch=2, clips=2, held=2)  # fmt: skip
    train_base(asked, tmp_path / "out")
    unet = teachers[0]["generator"].config
    assert (unet.predicts, unet.temporal, type(teachers[0]["fusion"]).__name__) == ("v", False, "ConcatFusion")
    assert all(torch.equal(value.cpu(), was_value) for (name, value), was_value in
               zip(teachers[0].state_dict().items(), checkpoint.load(start)["average"].values(), strict=True))  # fmt: skip
