"""The disk tier in an unkind world: damage, full and read-only folders, processes that die, several that make room at once."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wanlab.graph import StageCache, digest, disk
from wanlab.graph.disk import DiskTier

AB, CD, EF = (digest(name) for name in ("ab", "cd", "ef"))
ROOT = Path(__file__).parents[2]
KEPT = {"video": torch.arange(60.0).reshape(3, 20), "mask": torch.tensor([True, False]), "once:tree": torch.tensor(7)}


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*.safetensors"))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_no_damage_to_a_file_is_ever_taken_for_an_output(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("cache")
    said: list[str] = []
    tier = DiskTier(folder, 10**6, said.append)
    tier.put(AB, KEPT)
    [path] = files(folder)
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    flipped = bytes([good[place] ^ data.draw(st.integers(1, 255))]) + good[place + 1:]
    path.write_bytes(good[:place] + (b"" if data.draw(st.booleans()) else flipped))
    found = tier.get(AB)
    assert (found is None and tier.corrupt == [AB] and not path.exists() and "damaged" in said[0]) or _equal(found)
    tier.put(AB, KEPT)
    assert _equal(tier.get(AB))


def _equal(found: Any) -> bool:
    return found is not None and found.keys() == KEPT.keys() and all(torch.equal(found[name], KEPT[name]) for name in KEPT)


def test_a_full_disk_is_told_once_and_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    cache = StageCache(10**6, tmp_path / "cache", 10**6, said.append)

    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    save = disk.save_file
    monkeypatch.setattr(disk, "save_file", full)
    cache.put(AB, KEPT)
    cache.put(CD, KEPT)
    assert len(said) == 1 and "No space left on device" in said[0] and "the run goes on" in said[0]
    assert AB in cache.memory and not list((tmp_path / "cache").rglob("*.*"))
    monkeypatch.setattr(disk, "save_file", save)
    cache.put(EF, KEPT)                             # there is room again
    assert [path.stem for path in files(tmp_path / "cache")] == [EF]


def test_a_real_full_file_system_is_survived(tmp_path: Path) -> None:
    """A file-size limit of the process stands in for the small disk; nothing is patched."""
    code = (
        "import resource, signal, sys, torch; from pathlib import Path; from wanlab.graph.disk import DiskTier\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "said = []; tier = DiskTier(Path(sys.argv[1]), 10**6, said.append)\n"
        "tier.put('ab' * 10, {'x': torch.zeros(5000)}); tier.put('cd' * 10, {'x': torch.zeros(10)})\n"
        "assert tier.get('ab' * 10) is None and len(tier.get('cd' * 10)['x']) == 10 and len(said) == 1, said\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [path.name for path in tmp_path.rglob("*.*")] == [f"{'cd' * 10}.safetensors"]


def test_a_folder_that_cannot_be_written_is_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    DiskTier(tmp_path, 10**6).put(AB, KEPT)

    def refused(*given: Any, **options: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("replace", "utime", "mkdir", "unlink"):        # root, who runs CI, may write anywhere: so the system says no
        monkeypatch.setattr(os, name, refused)
    said: list[str] = []
    tier = DiskTier(tmp_path, 10**6, said.append)
    assert _equal(tier.get(AB))
    tier.put(CD, KEPT)
    [path] = files(tmp_path)
    path.write_bytes(b"damaged")
    assert tier.get(AB) is None and tier.get(CD) is None
    assert len(said) == 2 and "Read-only file system" in said[0] and "damaged" in said[1]


def test_a_file_in_place_of_the_folder_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("not a folder")
    said: list[str] = []
    cache = StageCache(10**6, tmp_path / "cache", 10**6, said.append)
    cache.put(AB, KEPT)
    assert cache.get(AB) is not None and cache.get(CD) is None and said


def test_what_dead_writers_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    folder = tmp_path / AB[:2]
    folder.mkdir()
    old, new, strange = folder / f"{AB}.{'0' * 32}.part", folder / f"{AB}.{'1' * 32}.part", folder / "film.mkv.part"
    for path in (old, new, strange):
        path.write_bytes(b"half")
    long_ago = time.time() - 2 * disk.STALE_SECONDS
    for path in (old, strange):
        os.utime(path, (long_ago, long_ago))
    DiskTier(tmp_path, 10**6).put(CD, KEPT)
    assert not old.exists() and new.exists() and strange.exists()


def test_a_strangers_files_are_never_the_caches(tmp_path: Path) -> None:
    """Weights that somebody keeps in the folder are neither removed nor counted, even under names that nearly fit."""
    names = ("t5/model.safetensors", "vae/ab12.safetensors", f"zz/{AB}.safetensors", f"{AB[:2]}/{AB.upper()}x.safetensors",
             f"{AB[:2]}/{AB}0.safetensors", f"{AB}.safetensors")
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"w" * 9000)
        os.utime(tmp_path / name, (1000, 1000))
    tier = DiskTier(tmp_path, 3500)
    for number in range(12):
        tier.put(digest(number), {"x": torch.zeros(220)})
    assert all((tmp_path / name).read_bytes() == b"w" * 9000 for name in names)
    assert sum(digest(number) in tier for number in range(12)) >= 2 and digest(0) not in tier


def test_opening_and_asking_leave_the_disk_as_it_is(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path / "cache", 2500)
    assert tier.get(AB) is None and AB not in tier and not list(tmp_path.iterdir())
    for number in range(2):
        tier.put(digest(number), {"x": torch.zeros(220)})
    before = sorted(tmp_path.rglob("*"))
    assert DiskTier(tmp_path / "cache", 100).get(AB) is None
    assert sorted(tmp_path.rglob("*")) == before and len(files(tmp_path / "cache")) == 2


def test_a_hit_keeps_an_entry_young(tmp_path: Path) -> None:
    tier = DiskTier(tmp_path, 3500)         # three entries of about a thousand bytes
    aa, bb, cc, dd = (digest(name) for name in "abcd")
    for age, key in enumerate((aa, bb, cc)):
        tier.put(key, {"x": torch.zeros(220)})
        os.utime(tmp_path / key[:2] / f"{key}.safetensors", (1000 + age, 1000 + age))
    assert tier.get(aa) is not None
    tier.put(dd, {"x": torch.zeros(220)})
    assert bb not in tier and aa in tier and dd in tier


@pytest.mark.parametrize("processes", [3])
def test_several_processes_write_read_and_make_room_at_once(tmp_path: Path, processes: int) -> None:
    """Every get gives the right tensors or none, nobody raises, and the folder stays near its limit."""
    code = (
        "import random, sys, torch; from pathlib import Path; from wanlab.graph.disk import DiskTier\n"
        "said = []; tier = DiskTier(Path(sys.argv[1]), 60_000, said.append); draw = random.Random(int(sys.argv[2]))\n"
        "for i in range(300):\n"
        "    n = draw.randrange(40); key = f'{n:020d}'\n"
        "    found = tier.get(key)\n"
        "    assert found is None or float(found['x'].sum()) == 1000 * n\n"
        "    tier.put(key, {'x': torch.full((1000,), float(n))})\n"
        "assert not tier.corrupt and not said, (tier.corrupt, said)\n"
    )
    start = [sys.executable, "-c", code, str(tmp_path)]
    writers = [subprocess.Popen([*start, str(number)], cwd=ROOT, stderr=subprocess.PIPE, text=True) for number in range(processes)]
    for writer in writers:
        _, said = writer.communicate(timeout=300)
        assert writer.returncode == 0, said
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 60_000 * (1 + processes * disk.LOOK_AGAIN)
    assert not list(tmp_path.rglob("*.part"))
