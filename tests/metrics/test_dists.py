"""Our DISTS is torchmetrics' on the same trunk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from metrics import weights
from metrics.dists import Dists, dists, dists_curve, published, random_trunk
from tests.metrics.scenes import blurred, noisy, sliding


@pytest.fixture(scope="module")
def judge() -> Dists:
    return random_trunk()


def test_it_is_torchmetrics_on_the_same_random_trunk(judge: Dists, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchmetrics.functional.image import dists as theirs

    class Model:
        features = judge.trunk

    monkeypatch.setattr(theirs, "vgg16", lambda weights: Model)
    peer: Any = theirs.DISTSNetwork()
    video = sliding(2, 2, size=64)
    for harm in (blurred(video), 1 - video):
        expected = peer(harm[0], video[0])[None]
        torch.testing.assert_close(dists_curve(harm, video, judge), expected, rtol=1e-5, atol=2e-6)


def test_a_copy_is_zero_and_sizes_are_checked(judge: Dists) -> None:
    video = sliding(2, 2, size=48)
    assert dists(video, video, judge).abs().tolist() == pytest.approx([0], abs=1e-6)
    assert float(dists(noisy(video, 0.2), video, judge)) > float(dists(noisy(video, 0.02), video, judge)) > 0
    assert judge.name == "random-trunk|vgg16|seed0"
    with pytest.raises(ValueError, match="32 x 32"):
        dists(video[..., :24], video[..., :24], judge)


def test_the_trunk_comes_from_a_file_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, judge: Dists) -> None:
    path = tmp_path / "vgg.pth"
    state = {f"features.{key}": value for key, value in judge.trunk.state_dict().items()}
    torch.save({**state, "classifier.0.weight": torch.zeros(1)}, path)
    loaded = published(path)
    assert loaded.name.startswith("custom-vgg16:")
    video = sliding(2, 2, size=32)
    assert torch.equal(dists(noisy(video), video, loaded), dists(noisy(video), video, judge))
    torch.save(dict(list(state.items())[1:]), path)
    with pytest.raises(weights.WeightsError, match="Missing key"):
        published(path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(weights.WeightsError, match=r"vgg16-397923af\.pth"):
        published()
