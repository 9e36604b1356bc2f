"""Weights of others: found where users keep them, checked, and asked for in words that help."""

from __future__ import annotations

import collections
import hashlib
from pathlib import Path

import pytest
import torch
from torch import nn

from metrics import weights
from metrics.weights import PUBLISHED, Published, WeightsError, locate

BYTES = b"not really a network"
HASH = hashlib.sha256(BYTES).hexdigest()


@pytest.fixture(autouse=True)
def _empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No caches but empty ones, and two published networks that the tests can write."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("WANLAB_WEIGHTS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    name = f"toy-{HASH[:8]}.pth"
    monkeypatch.setitem(PUBLISHED, "toy", Published(f"https://example.org/{name}", (name,), (HASH[:8],)))
    monkeypatch.setitem(PUBLISHED, "plain", Published("a friend", ("plain.pt",)))


def put(path: Path, content: bytes = BYTES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_a_given_file_comes_first_then_the_folder_then_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PUBLISHED["toy"].files[0]
    cached = put(tmp_path / "torch" / "hub" / "checkpoints" / file)
    assert locate("toy") == cached
    monkeypatch.setenv("WANLAB_WEIGHTS", str(tmp_path / "mine"))
    assert locate("toy") == cached
    mine = put(tmp_path / "mine" / file)
    assert locate("toy") == mine
    other = put(tmp_path / "other.pth", b"tuned")
    assert locate("toy", other) == other


def test_a_repository_is_found_in_the_hub_cache(tmp_path: Path) -> None:
    folder = tmp_path / "hub" / "models--openai--clip-vit-base-patch32"
    with pytest.raises(WeightsError, match=r"hf download openai/clip-vit-base-patch32"):
        locate("clip")
    config = put(folder / "snapshots" / ("a" * 40) / "config.json")
    put(folder / "refs" / "main", b"a" * 40)
    assert locate("clip") == config.parent


def test_what_is_missing_is_asked_for_with_source_hash_and_ways(tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        locate("toy")
    said = str(caught.value)
    for part in ("https://example.org/", HASH[:8], "--weights toy=PATH", "WANLAB_WEIGHTS", "TORCH_HOME"):
        assert part in said
    with pytest.raises(WeightsError, match=r"no sha256 known here.*plain=PATH"):
        locate("plain")
    with pytest.raises(WeightsError, match=r"nothing at .*absent\.pth"):
        locate("toy", tmp_path / "absent.pth")
    with pytest.raises(WeightsError, match=r"no weights 'alexnt' are known; nearest: alexnet"):
        locate("alexnt")


def test_a_damaged_cached_file_is_refused_and_a_given_stranger_is_named(tmp_path: Path) -> None:
    put(tmp_path / "torch" / "hub" / "checkpoints" / PUBLISHED["toy"].files[0], BYTES[:-1])
    with pytest.raises(WeightsError, match="is damaged or another file"):
        locate("toy")
    stranger, true, plain = (put(tmp_path / n, b) for n, b in (("s", b"tuned"), ("t", BYTES), ("p", BYTES)))
    assert weights.signature("toy", true) == f"toy:{HASH[:8]}"
    assert weights.signature("toy", stranger) == f"custom-toy:{hashlib.sha256(b'tuned').hexdigest()[:8]}"
    assert weights.is_published("plain", plain) is None and weights.signature("plain", plain) == f"plain:{HASH[:8]}"


def test_hashes_of_files_and_folders(tmp_path: Path) -> None:
    one = put(tmp_path / "one" / "model.safetensors")
    put(tmp_path / "one" / "config.json", b"{}")
    assert weights.sha256(one) == weights.sha256(tmp_path / "one") == HASH and weights.sha8(one) == HASH[:8]
    put(tmp_path / "one" / "pytorch_model.bin", b"the same once more")
    assert weights.sha256(tmp_path / "one") == HASH
    put(tmp_path / "one" / "model-2.safetensors", b"second")
    two = weights.sha256(tmp_path / "one")
    assert two != HASH
    put(tmp_path / "one" / "model-2.safetensors", b"2nd")
    assert weights.sha256(tmp_path / "one") not in (two, HASH)
    put(tmp_path / "none" / "config.json")
    with pytest.raises(FileNotFoundError, match="no weight file"):
        weights.sha256(tmp_path / "none")


def test_torchvision_s_own_urls_are_the_ones_that_are_named() -> None:
    from torchvision.models import AlexNet_Weights, SqueezeNet1_1_Weights, VGG16_Weights
    from torchvision.models.optical_flow import Raft_Large_Weights, Raft_Small_Weights
    from torchvision.models.video import MC3_18_Weights, R3D_18_Weights, S3D_Weights

    theirs = {
        "alexnet": AlexNet_Weights, "vgg16": VGG16_Weights, "squeezenet1_1": SqueezeNet1_1_Weights,
        "raft_large": Raft_Large_Weights, "raft_small": Raft_Small_Weights,
        "r3d_18": R3D_18_Weights, "mc3_18": MC3_18_Weights, "s3d": S3D_Weights,
    }  # fmt: skip
    assert {name: PUBLISHED[name].source for name in theirs} == {name: w.DEFAULT.url for name, w in theirs.items()}


def test_tensors_come_whole_or_not_at_all(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    network = nn.Linear(2, 3)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    torch.save(state, tmp_path / "a.pt")
    torch.save({"module": state}, tmp_path / "b.pth")
    save_file(state, tmp_path / "c.safetensors")
    torch.save(collections.Counter, tmp_path / "code.pt")
    put(tmp_path / "text.pt", b"hello")
    for name, inside in (("a.pt", None), ("b.pth", "module"), ("c.safetensors", None)):
        read = weights.tensors(tmp_path / name, inside)
        filled = weights.fill(nn.Linear(2, 3), read, "here")
        assert torch.equal(filled.weight, network.weight) and not filled.weight.requires_grad and not filled.training
    with pytest.raises(WeightsError, match="holds no 'model'; it has module"):
        weights.tensors(tmp_path / "b.pth", "model")
    for name in ("b.pth", "code.pt", "text.pt"):
        with pytest.raises(WeightsError, match=name):
            weights.tensors(tmp_path / name)
    with pytest.raises(WeightsError, match=r"not the weights of Linear.*bias"):
        weights.fill(nn.Linear(2, 3), {"weight": state["weight"]}, "here")
    with pytest.raises(WeightsError, match="NaN or infinite values in weight"):
        weights.fill(nn.Linear(2, 3), {**state, "weight": state["weight"] * torch.nan}, "here")
