"""Files of tensors: the values that safetensors itself reads, lazily, and how much memory filling a module takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file

from tests.pipelines import published
from wanlab.pipelines import tensorfile
from wanlab.pipelines.shards import Shards
from wanlab.pipelines.weights import WeightsError

KINDS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int64,
         torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]


def test_the_values_are_those_that_safetensors_reads(tmp_path: Path) -> None:
    torch.manual_seed(0)
    held = {str(kind): (10 * torch.randn(3, 5)).to(kind) for kind in KINDS}
    held |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "odd": torch.arange(7, dtype=torch.uint8)}
    save_file(held, tmp_path / "x.safetensors", metadata={"format": "pt"})
    torch.save(held, tmp_path / "x.pth")
    expected = load_file(tmp_path / "x.safetensors")
    for name in ("x.safetensors", "x.pth"):
        found = dict(tensorfile.tensors(tmp_path / name))
        assert tensorfile.shapes(tmp_path / name) == {name: tuple(value.shape) for name, value in found.items()}
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert found[key].dtype == value.dtype and found[key].shape == value.shape
            assert found[key].flatten().view(torch.uint8).equal(value.flatten().view(torch.uint8))


def test_what_is_written_to_a_tensor_does_not_reach_the_file(tmp_path: Path) -> None:
    save_file({"a": torch.ones(100)}, tmp_path / "x.safetensors")
    before = (tmp_path / "x.safetensors").read_bytes()
    [(_, value)] = tensorfile.tensors(tmp_path / "x.safetensors")
    value.zero_()
    assert value.sum() == 0 and (tmp_path / "x.safetensors").read_bytes() == before


WHOLE = save({"a": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.ones(2)}, metadata={"format": "pt"})


@given(st.integers(0, len(WHOLE) - 1))
@settings(max_examples=60, deadline=None)
def test_a_file_that_was_cut_anywhere_is_refused(tmp_path_factory: pytest.TempPathFactory, length: int) -> None:
    file = tmp_path_factory.mktemp("cut") / "x.safetensors"
    file.write_bytes(WHOLE[:length])
    with pytest.raises(WeightsError, match=r"x.safetensors is damaged or no safetensors file"):
        Shards(file)


@pytest.mark.parametrize(("entry", "says"), [
    ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "no room for its shape"),
    ({"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}, "where whole numbers from 0 on stand"),
    ({"dtype": "F4", "shape": [2], "data_offsets": [0, 8]}, "of kind F4, which is not read here"),
    ({"shape": [2]}, "dtype"),
])
def test_a_header_that_lies_is_refused(tmp_path: Path, entry: dict[str, object], says: str) -> None:
    told = json.dumps({"a": entry}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(told).to_bytes(8, "little") + told + bytes(8))
    with pytest.raises(WeightsError, match=says):
        Shards(tmp_path / "x.safetensors")


def test_a_file_larger_than_the_memory_can_be_opened(tmp_path: Path) -> None:
    """1 TB, a hole; a value is looked at, and read where it stands."""
    published.holes(tmp_path / "x.safetensors", {f"a{i}": (250_000_000_000,) for i in range(2)})
    assert [value[-1].item() for _, value in tensorfile.tensors(tmp_path / "x.safetensors")] == [0.0, 0.0]


FILL = """
import json, sys, torch
from pathlib import Path
from wanlab.pipelines.wan_load import read_dit
from wanlab.stages.dit import Config, Dit

def status(key):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(key))

folder, dtype = Path(sys.argv[1]), getattr(torch, sys.argv[2])
config = Config(heads=8, head_width=64, depth=int(sys.argv[3]), hidden=8192, text_width=64)
with torch.device("meta"):
    Dit(Config(depth=1))                                # what the first module on the meta device imports
torch.zeros(1000, 1000).to(dtype).float().sum()         # and the first conversion
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")           # the highest from here on
dit = read_dit(folder, config, dtype)
size = sum(value.numel() * value.element_size() for value in dit.parameters() if not sys.argv[4:])
print(json.dumps({"beside": status("VmHWM") - before - size, "size": size}))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads the peak of a process as Linux tells it")
def test_reading_takes_no_more_than_one_shard_beside_the_model_itself(tmp_path: Path) -> None:
    """A transformer of 1 GB in shards of 150 MB, read in bfloat16 and as it is: peaks of fresh processes."""
    from diffusers import WanTransformer3DModel

    depth = 24
    torch.manual_seed(0)
    their = WanTransformer3DModel(num_attention_heads=8, attention_head_dim=64, ffn_dim=8192, num_layers=depth, text_dim=64)
    their.save_pretrained(tmp_path, max_shard_size="150MB")
    del their
    shard = max(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    total = sum(file.stat().st_size for file in tmp_path.glob("*.safetensors"))
    assert total > 0.9e9 and shard < 160e6

    def beside(*arguments: str) -> float:
        run = subprocess.run([sys.executable, "-c", FILL, str(tmp_path), *arguments], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        print(arguments, run.stdout)
        return float(json.loads(run.stdout)["beside"])

    assert beside("bfloat16", str(depth)) <= 1.2 * shard
    assert beside("float32", str(depth), "nothing of the model is in memory yet") <= 0.1 * shard
