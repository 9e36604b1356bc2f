"""Our LPIPS is the lpips package's and torchmetrics' on the same trunk; a trunk is loaded whole, and named, or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from metrics import lpips as ours
from metrics import lpips_distance, tlp, weights
from metrics.lpips import Perceptual
from metrics.perceptual import perceptual_curves, tlp_of
from tests.metrics.scenes import blurred, noisy, shuffled, sliding, still

NETS = ("alex", "squeeze", pytest.param("vgg", marks=pytest.mark.slow))  # its classifier alone takes seconds to draw


def videos(size: int = 64, frames: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, frames, 3, size, size, generator=generator)
    return x, (x + 0.1 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


def peer(net: str, judge: Perceptual) -> Any:
    """torchmetrics' LPIPS on the trunk of ours; its own loading would leave the trunk random without a word."""
    from torchmetrics.functional.image.lpips import _LPIPS

    model = _LPIPS(net=net, pnet_rand=True)
    state = judge.model.net.state_dict()
    if net == "squeeze":  # "slice3.5..." is called "slices.2.5..." there
        state = {f"slices.{int(key[5]) - 1}{key[6:]}": value for key, value in state.items()}
    model.net.load_state_dict(state, strict=True)
    return model


@pytest.mark.parametrize("net", NETS)
def test_every_net_is_the_package_s_and_torchmetrics_in_float32(net: str) -> None:
    judge = ours.random_trunk(net)
    assert judge.name == f"random-trunk|{net}|seed0"
    x, y = videos(size=48)
    flat = 2 * x.flatten(0, 1) - 1, 2 * y.flatten(0, 1) - 1
    package = judge.model(*flat).view(2, 3)
    found = perceptual_curves(x, y, steps=False, judge=judge).reference
    torch.testing.assert_close(found, package, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(found, peer(net, judge)(*flat).view(2, 3), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours.feature_distance(ours.frame_features(x, judge), ours.frame_features(y, judge), judge), found)
    torch.testing.assert_close(lpips_distance(x, y, judge), found.mean(1))
    assert lpips_distance(x, x, judge).tolist() == [0, 0] and not found.requires_grad


def test_linear_weights_are_the_package_s() -> None:
    import lpips

    model = ours.blank("alex", linear=True)
    state = torch.load(Path(lpips.__file__).parent / "weights/v0.1/alex.pth", weights_only=True, map_location="cpu")
    assert len(state) == 5
    for k in range(5):
        assert torch.equal(model.lins[k].model[1].weight, state[f"lin{k}.model.1.weight"])
        assert bool((model.lins[k].model[1].weight >= 0).all())


def test_changed_linear_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ours.LINEAR, "alex", "0" * 16)
    with pytest.raises(weights.WeightsError, match="linear layer"):
        ours.random_trunk("alex")


@pytest.mark.parametrize("chunk", [1, 64 * 64, 3 * 64 * 64, 10**9])
def test_all_distances_come_from_one_pass_whatever_the_chunk(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ours.PIXELS, "squeeze", chunk)
    judge = ours.random_trunk("squeeze")
    video, reference = videos(frames=5)
    image = reference[:, 0]
    count, forward = [0], judge.model.net.forward

    def counted(frames: Tensor) -> Any:
        count[0] += len(frames)
        return forward(frames)

    monkeypatch.setattr(judge.model.net, "forward", counted)
    found = perceptual_curves(video, reference, image, judge=judge)
    assert count[0] == 2 * (5 + 5 + 1)  # each frame and image of the two samples once

    def pair(a: Tensor, b: Tensor) -> Tensor:
        return judge.model(2 * a.flatten(0, 1) - 1, 2 * b.flatten(0, 1) - 1).view(a.shape[:2])

    close = {"rtol": 1e-5, "atol": 1e-7}
    torch.testing.assert_close(found.reference, pair(video, reference), **close)
    torch.testing.assert_close(found.steps, pair(video[:, :-1], video[:, 1:]), **close)
    torch.testing.assert_close(found.reference_steps, pair(reference[:, :-1], reference[:, 1:]), **close)
    torch.testing.assert_close(found.image, pair(video, image[:, None].expand_as(video)), **close)
    torch.testing.assert_close(tlp_of(found, cut=0), 100 * (found.steps - found.reference_steps).abs().mean(1))


def test_only_what_was_asked_for_is_computed() -> None:
    video, reference = videos()
    found = perceptual_curves(video, steps=False, image=video[:, 0])
    assert found.reference is None and found.steps is None
    assert found.image[:, 0].tolist() == pytest.approx([0, 0], abs=1e-8) and float(found.image[:, 1:].min()) > 0.1
    with pytest.raises(ValueError, match="needs the steps"):
        tlp_of(perceptual_curves(video, reference, steps=False))


def torchvision_file(net: str, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A file as torchvision's, never trained."""
    from torchvision import models

    with torch.device("meta"):
        shapes = getattr(models, ours.PUBLISHED[net])(weights=None).state_dict()
    state = {key: 0.05 * torch.randn(value.shape) for key, value in shapes.items() if key.startswith("features.")}
    state["classifier.1.weight"] = torch.zeros(1)  # which nobody reads
    path = folder / f"{net}.pth"
    torch.save(state, path)
    return path, state


@pytest.mark.parametrize("net", ["alex", "squeeze"])
def test_torchvision_s_file_lands_on_the_right_layers(net: str, tmp_path: Path) -> None:
    path, state = torchvision_file(net, tmp_path)
    judge = ours.published(net, path)
    assert judge.name == f"custom-{ours.PUBLISHED[net]}:{weights.sha256(path)[:8]}"  # not the published bytes, and says so
    loaded = judge.model.net.state_dict()
    assert len(loaded) == sum(key.startswith("features.") for key in state)
    for key, value in loaded.items():
        assert torch.equal(value, state[f"features.{key.split('.', 1)[1]}"])
    x, y = videos()
    assert float(lpips_distance(x, y, judge).min()) > 0


def test_a_partial_or_foreign_file_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, state = torchvision_file("squeeze", tmp_path)
    partial = {key: value for key, value in state.items() if key != "features.3.squeeze.weight"}
    torch.save(partial, path)
    with pytest.raises(weights.WeightsError, match="Missing key"):
        ours.published("squeeze", path)
    torch.save({**state, "features.99.weight": torch.zeros(1)}, path)
    with pytest.raises(weights.WeightsError, match="Unexpected key"):
        ours.published("squeeze", path)
    with pytest.raises(ValueError, match="no net 'resnet'"):
        ours.published("resnet")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(weights.WeightsError, match=r"alexnet-owt-7be5be79\.pth"):
        ours.published("alex")
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(state, cache / "alexnet-owt-7be5be79.pth")  # the right name, other bytes
    with pytest.raises(weights.WeightsError, match="damaged or another file"):
        ours.published("alex")


def test_the_shipped_trunk_has_fifty_tensors_and_loads_strictly() -> None:
    state = ours.blank().net.state_dict()
    assert len(state) == 50
    built = ours.build({key: torch.full_like(value, 0.01) for key, value in state.items()})
    assert all(bool((value == 0.01).all()) for value in built.net.state_dict().values())
    assert not any(parameter.requires_grad for parameter in built.parameters())
    missing = dict(list(state.items())[1:])
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.build(missing)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        ours.build({**state, "slice9.weight": torch.zeros(1)})


def test_tlp_sees_flicker_and_freezing_and_not_a_constant_blur_as_much() -> None:
    true = sliding(2, 8)
    assert float(tlp(true, true)) == 0
    values = {"noise": tlp(noisy(true, 0.1), true), "still": tlp(still(true), true), "shuffle": tlp(shuffled(true), true)}
    assert min(float(value) for value in values.values()) > 2 * float(tlp(true.flip(-1), true)), values
    assert float(tlp(blurred(true), true)) > 0
    with pytest.raises(ValueError, match="at least 6"):
        tlp(true[:, :5], true[:, :5])


def test_small_frames_are_refused() -> None:
    x, y = videos(24)
    with pytest.raises(ValueError, match="32 x 32"):
        lpips_distance(x, y)
    with pytest.raises(ValueError, match="2 videos but 1 images"):
        perceptual_curves(videos()[0], image=videos()[0][:1, 0])
