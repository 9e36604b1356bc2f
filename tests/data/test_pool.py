"""A pool holds what the world draws, once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from wanlab.data import pool as pools
from wanlab.data.procedural import World


def test_a_pool_is_the_world_in_eight_bits(tmp_path: Path) -> None:
    world = World(size=16, split="val")
    clips, kept = world.batch([1, 3]), world.pool(4, tmp_path)
    assert len(kept) == 4
    read = kept.batch([1, 3])
    torch.testing.assert_close(read.video, clips.video, atol=0.51 / 255, rtol=0)
    torch.testing.assert_close(read.first_masks, clips.first_masks, atol=0.51 / 255, rtol=0)
    assert torch.equal(read.motion, clips.motion)  # type: ignore[arg-type]
    assert read.captions == clips.captions
    assert read.factors == clips.factors


def test_a_pool_in_memory_equals_one_on_disk(tmp_path: Path) -> None:
    world = World(size=16)
    a, b = world.pool(3), world.pool(3, tmp_path, dtype=np.uint8)
    assert np.array_equal(a.video, b.video)
    assert a.captions == b.captions


def test_a_pool_is_drawn_once_and_keyed_by_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    World(size=16).pool(3, tmp_path)
    monkeypatch.setattr(pools, "_write", lambda *_: pytest.fail("drawn a second time"))
    World(size=16).pool(3, tmp_path)
    monkeypatch.undo()
    World(size=16, seed=1).pool(3, tmp_path)
    World(size=16).pool(3, tmp_path, dtype=np.float16)
    assert len(list(tmp_path.iterdir())) == 3


def test_code_that_draws_otherwise_gets_another_pool_though_no_looked_at_sample_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    World(size=16).pool(3, tmp_path)
    monkeypatch.setattr(pools, "_code", lambda folder: "other code")
    World(size=16).pool(3, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_the_code_of_a_folder_is_every_source_in_it(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "draw.py").write_text("a = 1")
    before = pools._code(tmp_path)
    assert pools._code(tmp_path) == before
    (tmp_path / "deep" / "draw.py").write_text("a = 2")
    assert pools._code(tmp_path) != before


def test_nothing_is_left_of_a_pool_that_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pools, "_fill", stop)
    with pytest.raises(KeyboardInterrupt):
        World(size=16).pool(3, tmp_path)
    assert not list(tmp_path.iterdir())


def test_half_precision_is_finer_than_eight_bits(tmp_path: Path) -> None:
    world = World(size=16)
    read = world.pool(2, tmp_path, dtype=np.float16).batch([0])
    torch.testing.assert_close(read.video, world.batch([0]).video, atol=3e-4, rtol=0)


def test_rows_and_types_are_checked() -> None:
    kept = World(size=16).pool(2)
    with pytest.raises(IndexError, match=r"pool of 2.*\[2\]"):
        kept.batch([2])
    with pytest.raises(ValueError, match="at least one"):
        World(size=16).pool(0)
    with pytest.raises(ValueError, match="int32"):
        World(size=16).pool(1, dtype=np.int32)
