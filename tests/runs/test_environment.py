"""What stands in content keys beside the study: the code, versions and device that decide bytes, and nothing that does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image as Picture

from wanlab.runs import environment, source
from wanlab.runs.environment import context_of, reading, threads
from wanlab.runs.spec import Folder, Image, Images, Procedural

FOLDERS = ("core", "nn", "graph", "diffusion", "stages", "pipelines", "measure", "data", "runs", "plots", "analysis")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small copy of the house, whose code nobody edits meanwhile."""
    for name in FOLDERS:
        (tmp_path / "house" / name).mkdir(parents=True)
        (tmp_path / "house" / name / "one.py").write_text("")
    monkeypatch.setattr(environment, "HOME", tmp_path / "house")
    return tmp_path / "house"


def changed(act: Callable[[], Any]) -> set[str]:
    """Which keys differ after something was done."""
    def keys() -> dict[str, Any]:
        return {**context_of("cpu"), "read": reading()}

    before = keys()
    act()
    after = keys()
    return {name for name in before if before[name] != after[name]}


@pytest.mark.parametrize(("folders", "keys"), [
    (("core", "nn", "graph", "diffusion", "stages", "pipelines"), {"generate"}), (("measure",), {"measure"}), (("data",), {"read"}),
    (("runs", "plots", "analysis"), set()),
])
def test_code_that_decides_bytes_is_in_the_key_of_what_it_makes(home: Path, folders: tuple[str, ...], keys: set[str]) -> None:
    for name in folders:
        assert changed(lambda name=name: (home / name / "one.py").write_text("x = 1\n")) == keys, name


@pytest.mark.parametrize(("package", "keys"), [
    ("diffusers", {"generate"}), ("tokenizers", {"generate"}), ("ftfy", {"generate"}), ("transformers", {"generate", "measure"}),
    ("torchvision", {"generate", "measure"}), ("opencv-python-headless", {"measure"}), ("lpips", {"measure"}),
    ("torchmetrics", {"measure"}), ("scipy", {"measure"}), ("av", {"read"}), ("pillow", {"read"}),
    ("numpy", {"generate", "measure", "read"}), ("matplotlib", set()), ("pydantic", set()),
])
def test_another_version_of_what_computes_is_another_key(
    home: Path, package: str, keys: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version_of = environment.version_of
    assert version_of(package) is not None and package in environment.PACKAGES
    assert changed(lambda: monkeypatch.setattr(
        environment, "version_of", lambda name: "0.0.1" if name == package else version_of(name))) == keys


def test_torch_its_threads_and_the_device_are_in_the_keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment.torch, "get_num_threads", lambda: 7)
    assert changed(lambda: monkeypatch.setattr(environment.torch, "get_num_threads", lambda: 9)) == {"generate", "measure"}
    assert changed(lambda: monkeypatch.setattr(environment.torch, "__version__", "0.1")) == {"generate", "measure"}
    assert changed(lambda: monkeypatch.setattr(environment, "device_class", lambda device: "another")) == {"generate"}


def test_the_code_that_reads_or_renders_is_in_the_key_of_the_rows_of_every_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip").mkdir()
    for frame in range(2):
        Picture.new("RGB", (16, 16), (40 * frame, 0, 0)).save(tmp_path / "clip" / f"{frame}.png")
    (tmp_path / "pairs.csv").write_text("image,prompt\nclip/0.png,a word\n")
    asked = [Procedural(n=1), Folder(kind="folder", path=tmp_path), Images(kind="images", path=tmp_path / "pairs.csv"),
             Image(kind="image", path=tmp_path / "clip" / "0.png", prompts=["a"])]  # fmt: skip
    before = [source.open_source(one, 16, 2).digest([0]) for one in asked]
    assert [source.open_source(one, 16, 2).digest([0]) for one in asked] == before
    monkeypatch.setattr(source, "reading", lambda: "another")
    assert not set(before) & {source.open_source(one, 16, 2).digest([0]) for one in asked}


@pytest.mark.parametrize("count", [0, -1, 100_000])
def test_threads_that_no_machine_has_are_refused_before_torch_hears_of_them(count: int) -> None:
    before = torch.get_num_threads()
    with pytest.raises(ValueError, match="threads of a task: from 1 to 1,024"), threads(count):
        pass
    assert torch.get_num_threads() == before
