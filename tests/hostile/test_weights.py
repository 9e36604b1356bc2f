"""Weights, pipelines and records from a stranger: damaged, lying about themselves, or something else under their name."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.core.test_record import record
from tests.hostile.cases import answer, every, full, within
from tests.hostile.files import changed_json, safetensors, torch_files, weights_file
from tests.hostile.media import damaged
from wanlab.core import Record, RecordError
from wanlab.pipelines import tensorfile
from wanlab.pipelines.load import PRESETS, _fill, load
from wanlab.pipelines.shards import Shards
from wanlab.pipelines.weights import WeightsError


def small_preset() -> dict:
    """pipeline.json of the shipped preset, without its weights and what they came from."""
    preset = json.loads((PRESETS / "tiny" / "pipeline.json").read_text())
    for stage in preset["stages"].values():
        for variant in stage["variants"].values():
            for key in ("file", "sha256", "provenance"):
                variant.pop(key, None)
            if "vocabulary" in variant["config"]:
                variant["config"]["vocabulary"] = ["a", "red"]
    return preset


@full
def test_safetensors_files(whole: bool, tmp_path: Path) -> None:
    def case(content: bytes) -> None:
        path, module = tmp_path / "one.safetensors", nn.Linear(2, 3)
        path.write_bytes(content)
        answer(lambda: [value.sum() for _, value in tensorfile.tensors(path)], WeightsError)
        answer(lambda: _fill(module, path, None), WeightsError)

    every("checkpoints", whole, safetensors(), case)


@full
def test_torch_files(whole: bool, tmp_path: Path) -> None:
    def case(content: bytes) -> None:
        path = tmp_path / "one.pth"
        path.write_bytes(content)
        answer(lambda: tensorfile.shapes(path), WeightsError)

    every("torch files", whole, torch_files(tmp_path), case)


@full
def test_pipeline_folders(whole: bool, tmp_path: Path) -> None:
    load("tiny", init="meta")

    def case(text: str) -> None:
        (tmp_path / "pipeline.json").write_text(text)
        answer(lambda: load(tmp_path, init="meta"), WeightsError, LookupError)

    every("pipelines", whole, changed_json(small_preset()), case)


@full
def test_records(whole: bool, tmp_path: Path) -> None:
    content = record("**").save(tmp_path / "whole.safetensors").read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    head = json.loads(content[8:end])
    about = json.loads(head["__metadata__"]["wanlab_record"])

    def told_otherwise(text: str) -> bytes:
        return weights_file({**head, "__metadata__": {"wanlab_record": text}}, content[end:])

    def case(changed: bytes) -> None:
        path = tmp_path / "one.safetensors"
        path.write_bytes(changed)
        answer(lambda: repr(Record.load(path)), RecordError)

    every("records", whole, damaged(lambda draw: content) | changed_json(about).map(told_otherwise) | safetensors(), case)


@pytest.mark.parametrize(("content", "expected"), [
    (weights_file({}, b"", 2**63), "ends within its header"), (weights_file(b"[" * 100_000), "header is no list of tensors"),
    (weights_file({"a": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}}, b"\0" * 8), "numbers from 0 on stand"),
    (weights_file({"a": {"dtype": "F32", "shape": "12", "data_offsets": [0, 8]}}, b"\0" * 8), "'12' where whole numbers"),
    (weights_file({name: {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} for name in "ab"}, b"\0" * 8), "over each other"),
    (b"\x80\x04cos\nsystem\n(S'echo'\ntR.", "no safetensors file"),
])  # fmt: skip
def test_a_header_that_lies_is_told(content: bytes, expected: str, tmp_path: Path) -> None:
    (tmp_path / "one.safetensors").write_bytes(content)
    with within(), pytest.raises(WeightsError, match=expected):
        tensorfile.shapes(tmp_path / "one.safetensors")


def test_whole_numbers_are_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    path.write_bytes(weights_file({"weight": {"dtype": "I64", "shape": [3, 2], "data_offsets": [0, 48]},
                                   "bias": {"dtype": "F32", "shape": [3], "data_offsets": [48, 60]}}, b"\0" * 60))  # fmt: skip
    with pytest.raises(WeightsError, match=r"weight holds torch\.int64, not torch\.float32"):
        _fill(nn.Linear(2, 3), path, None)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "harm",))

    torch.save({"weight": Harm()}, tmp_path / "one.pth")
    with pytest.raises(WeightsError, match="holds more than tensors, which is not loaded"):
        tensorfile.shapes(tmp_path / "one.pth")
    (tmp_path / "one.pth").rename(tmp_path / "two.safetensors")
    with pytest.raises(WeightsError):
        tensorfile.shapes(tmp_path / "two.safetensors")
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(("path", "value", "expected"), [
    (("size",), 10**9, "size is 1000000000, where a number from 1 to 8,192 stands"), (("frames",), -1, "frames is -1"),
    (("stages", "text"), [], "stages.text needs variants and a default"), (("sampler", "steps"), "many", "sampler.steps is 'many'"),
    (("stages", "text", "variants", "t5", "file"), "../../x.safetensors", "no name of a file in this folder"),
    (("stages", "text", "variants", "t5", "config"), {"widht": 3}, "what pipeline.json says of it makes no module"),
])  # fmt: skip
def test_a_pipeline_that_cannot_be_is_told(path: tuple[str, ...], value: object, expected: str, tmp_path: Path) -> None:
    preset = held = small_preset()
    for step in path[:-1]:
        held = held[step]
    held[path[-1]] = value
    (tmp_path / "pipeline.json").write_text(json.dumps(preset))
    with within(), pytest.raises(WeightsError, match=expected):
        load(tmp_path, init="random")


def test_an_index_names_files_beside_it_alone(tmp_path: Path) -> None:
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../secret.safetensors"}}))
    with pytest.raises(WeightsError, match=r"'\.\./secret\.safetensors' is no name of a file beside it"):
        Shards(tmp_path)
