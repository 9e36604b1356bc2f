"""Every kind of edit under its contract."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.contracts.edit_contract import EditContract
from tests.core.models import Denoiser, start
from wanlab.core import KINDS, Dictionary, Edit, trace


class TestIdentity(EditContract):
    kind = "identity"


class TestZero(EditContract):
    kind = "zero"


class TestMean(EditContract):
    kind = "mean"


class TestNoise(EditContract):
    kind, parameters = "noise", {"std": 0.5, "seed": 3}


class TestScale(EditContract):
    kind, parameters = "scale", {"factor": 0.5}


class TestSteer(EditContract):
    kind, parameters = "steer", {"direction": [1.0] * 8, "strength": 2.0}


class TestBypass(EditContract):
    kind = "bypass"


class TestResample(EditContract):
    kind, batched = "resample", True


class TestFreezeFrame(EditContract):
    kind = "freeze_frame"


class TestShuffleFrames(EditContract):
    kind = "shuffle_frames"


class TestReverseFrames(EditContract):
    kind = "reverse_frames"


class TestLowPassFrames(EditContract):
    kind = "low_pass_frames"


class TestCutFrames(EditContract):
    kind, site = "cut_frames", "blocks.0.temporal.pattern"


class FromRecord(EditContract):
    """Kinds that take values from a saved record of four other samples."""

    @pytest.fixture(autouse=True)
    def _record(self, tmp_path: Path) -> None:
        model = Denoiser()
        with trace(model, capture=f"{self.site}{' -> mean' if self.kind != 'resample' else ''}") as t:
            model(start(4) + 1)
        name = "record" if self.kind == "patch" else "reference"
        self.parameters: dict[str, Any] = {name: {"path": str(t.record.save(tmp_path / "record.safetensors"))}}


class TestMeanOfReference(FromRecord):
    kind = "mean"


class TestResampleFromReference(FromRecord):
    kind = "resample"


class TestPatch(FromRecord):
    kind = "patch"


class TestFeature(EditContract):
    """Two features of a saved dictionary of the site, with random directions."""

    kind = "feature"

    @pytest.fixture(autouse=True)
    def _dictionary(self, tmp_path: Path) -> None:
        draw = torch.Generator().manual_seed(0)
        directions = torch.nn.functional.normalize(torch.randn(16, 8, generator=draw), dim=1)
        held = Dictionary(directions, torch.zeros(16), directions, torch.zeros(8), torch.tensor(1.0), 6, {"site": self.site})
        self.parameters: dict[str, Any] = {"dictionary": {"path": str(held.save(tmp_path / "held.safetensors"))},
                                           "features": [0, 3, 5, 8, 11], "factor": -1.0}


def test_every_kind_stands_under_the_contract() -> None:
    classes = [*EditContract.__subclasses__(), *FromRecord.__subclasses__()]
    tested = {one.kind for one in classes if one is not FromRecord}
    assert tested | {"replace"} == {name for name, kind in KINDS.items() if issubclass(kind, Edit)}
