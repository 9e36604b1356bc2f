"""Content keys, and the two tiers of the stage cache."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from wanlab.core import Zero
from wanlab.graph import StageCache, digest, file_digest, source_digest
from wanlab.graph.disk import DiskTier
from wanlab.graph.memory import MemoryTier


def outputs(fill: float, size: int = 100) -> dict[str, torch.Tensor]:
    return {"video": torch.full((size,), float(fill))}


def test_equal_values_have_equal_keys_in_every_process() -> None:
    value = {"b": [1, 2.0, None, True, "ä"], "a": {"x": (3,)}}
    code = f"from wanlab.graph import digest; print(digest({value!r}))"
    other = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": "77", "PATH": ""},
    )
    assert other.stdout.strip() == digest(value) == digest({"a": {"x": [3]}, "b": [1, 2.0, None, True, "ä"]})


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (1, 1.0),
        (1, True),
        ("1", 1),
        (None, "None"),
        ([], {}),
        ([1, [2]], [[1], 2]),
        (0.1, 0.1 + 1e-17 + 2e-17),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(2), torch.zeros(2, dtype=torch.float64)),
        (torch.zeros(2), np.zeros(2, dtype=np.float32)),
        (torch.tensor([0.0]), torch.tensor([-0.0])),
        (Path("a"), "a"),
        (Zero("a.b"), Zero("a.b", heads=[1])),
        ({"a": 1}, {"a": {"a": 1}}),
        ({1, 2}, [1, 2]),
    ],
)
def test_different_values_have_different_keys(one: object, two: object) -> None:
    assert digest(one) != digest(two)


def test_views_and_dtypes_of_tensors() -> None:
    x = torch.arange(6.0).reshape(2, 3)
    assert digest(x.T) == digest(x.T.contiguous()) != digest(x)
    assert digest(x.bfloat16()) == digest(x.bfloat16().clone()) != digest(x.half())


def test_what_has_no_content_is_refused() -> None:
    with pytest.raises(TypeError, match="no content key for a object"):
        digest({"a": object()})
    with pytest.raises(TypeError, match="string keys, got the key 1"):
        digest({1: 2})


def test_source_digests_follow_the_code(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    before = source_digest([tmp_path])
    (tmp_path / "notes.txt").write_text("no code")
    assert source_digest([tmp_path]) == before
    (tmp_path / "a.py").write_text("x = 2\n")
    assert source_digest([tmp_path]) != before
    assert len(file_digest(tmp_path / "a.py")) == 20


def test_memory_drops_the_least_recently_used_and_never_exceeds_its_limit() -> None:
    tier = MemoryTier(1000)  # two entries of 400 bytes
    tier.put("a", outputs(1))
    tier.put("b", outputs(2))
    assert tier.get("a") is not None
    tier.put("c", outputs(3))
    assert len(tier) == 2 and "b" not in tier and tier.used == 800
    tier.put("large", outputs(4, size=300))
    assert "large" not in tier and len(tier) == 2
    with pytest.raises(ValueError, match="at least 0"):
        MemoryTier(-1)


def test_disk_gives_back_the_same_bytes(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 10**6)
    kept = {"video": torch.randn(2, 3), "mask": torch.tensor([True, False]), "view": torch.randn(3, 2).T}
    tier.put("ab12", kept)
    found = DiskTier(tmp_path, 10**6).get("ab12")
    assert found is not None and all(torch.equal(found[name], value) for name, value in kept.items())
    assert tier.get("none") is None and not list(tmp_path.rglob("*.part"))


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b[:-3] + b"xyz", lambda b: b"", lambda b: b"\xff" * len(b)])
def test_a_damaged_entry_is_removed_and_counts_as_absent(tmp_path: Path, damage: object) -> None:
    tier = DiskTier(tmp_path, 10**6)
    tier.put("ab12", outputs(1))
    path = next(tmp_path.rglob("*.safetensors"))
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    assert tier.get("ab12") is None and tier.corrupt == ["ab12"] and not path.exists()
    tier.put("ab12", outputs(1))
    assert tier.get("ab12") is not None


def test_disk_keeps_to_its_limit_oldest_first(tmp_path: Path) -> None:
    import os

    tier = DiskTier(tmp_path, 5000)
    for age, key in enumerate("01234567"):
        tier.put(key * 20, outputs(age, size=200))
        path = tmp_path / (key * 2) / f"{key * 20}.safetensors"
        if path.exists():
            os.utime(path, (1000 + age, 1000 + age))
    sizes = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert sizes <= 5000 and "0" * 20 not in tier and "7" * 20 in tier


def test_the_cache_moves_what_disk_has_to_memory(tmp_path: Path) -> None:
    cache = StageCache(10_000, tmp_path, 10**6)
    cache.put("ab12", outputs(1))
    fresh = StageCache(10_000, tmp_path, 10**6)
    assert "ab12" in fresh and "ab12" not in fresh.memory
    assert fresh.get("ab12") is not None and "ab12" in fresh.memory
    assert fresh.get("cd34") is None
