"""Disks that are full, read-only, or hold what nobody wrote; on a small file system of its own where that can be mounted."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.contracts.engine_contract import content
from tests.faults.conftest import Wanlab, logs
from wanlab.runs.store import RunFolder

pytestmark = pytest.mark.slow
NO_MOUNT = 77


def on_small_disk(wanlab: Wanlab, tmp_path: Path, script: str, size: str = "64m") -> tuple[str, Path]:
    """Run shell lines with $DISK, a file system in memory of `size`, and $RUN, the command of a run into $DISK/out; what they
    said, and a copy of $DISK/out."""
    disk, kept = tmp_path / "disk", tmp_path / "kept"
    disk.mkdir()
    lines = f"""
    mount -t tmpfs -o size={size} tmpfs {disk} || exit {NO_MOUNT}
    DISK={disk}; RUN={shlex.quote(shlex.join(wanlab.command(disk / "out")))}
    {script}
    cp -r {disk}/out {kept}
    """
    if shutil.which("unshare") is None:
        pytest.skip("unshare (util-linux) is not here, so no file system can be mounted for the test")
    ended = subprocess.run(["unshare", "-rm", "sh", "-c", lines], capture_output=True, text=True, timeout=900)
    if ended.returncode == NO_MOUNT or "unshare:" in ended.stderr:
        pytest.skip(f"a file system of its own cannot be mounted here: {ended.stderr.strip()[:200]}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr, kept


def test_a_full_disk_is_told_and_after_making_room_the_run_goes_on(wanlab: Wanlab, undisturbed: Path, tmp_path: Path) -> None:
    said, kept = on_small_disk(
        wanlab,
        tmp_path,
        """
        $RUN; echo "code $?"
        ls $DISK/out/cells/*/parts | grep -c safetensors
        mount -o remount,size=64m tmpfs $DISK
        $RUN; echo "code $?"
        """,
        size="200k",
    )
    assert "the disk is full" in said and "make room and give the same command again" in said and "Traceback" not in said
    codes = [line for line in said.splitlines() if line.startswith("code ")]
    assert codes == ["code 2", "code 0"]
    assert content(kept) == content(undisturbed)
    lines = [line for cell in logs(kept).values() for line in cell]
    assert max(line["attempt"] for line in lines) == 1, "what was saved before the disk was full ran again"


def test_a_read_only_folder_is_told_and_stays_as_it_was(wanlab: Wanlab, undisturbed: Path, tmp_path: Path) -> None:
    said, kept = on_small_disk(
        wanlab,
        tmp_path,
        f"""
        mount -o remount,ro tmpfs $DISK
        $RUN; echo "code $?"
        mount -o remount,rw tmpfs $DISK
        cp -r {undisturbed} $DISK/out; rm $DISK/out/cells/late-*/DONE
        mount -o remount,ro tmpfs $DISK
        $RUN; echo "code $?"
        mount -o remount,rw tmpfs $DISK
        """,
    )
    assert [line for line in said.splitlines() if line.startswith("code ")] == ["code 2", "code 2"]
    assert said.count("cannot be written to") == 2 and "choose another folder with --out" in said and "Traceback" not in said
    left, whole = content(kept), content(undisturbed)
    assert {name for name in whole if name not in left} == {name for name in whole if "late-" in name and name.endswith("DONE")}
    assert all(whole[name] == value for name, value in left.items())


def test_a_damaged_cache_entry_is_computed_again(wanlab: Wanlab, undisturbed: Path, tmp_path: Path) -> None:
    cached = ["--set", f"cache.disk={tmp_path / 'cache'}"]
    assert wanlab.run(tmp_path / "first", *cached)[0] == 0
    entries = sorted((tmp_path / "cache").glob("*/*.safetensors"))
    assert len(entries) > 10
    for number, path in enumerate(entries):
        data = path.read_bytes()
        path.write_bytes([data[: len(data) // 2], data[:-9] + b"\xff" * 9, b"", data][number % 4])
    code, said = wanlab.run(tmp_path / "second", *cached)
    assert code == 0, said
    assert {k: v for k, v in content(tmp_path / "second").items() if "/" in k} == {
        k: v for k, v in content(undisturbed).items() if "/" in k
    }


def test_a_truncated_result_is_noticed_and_only_its_cell_runs_again(wanlab: Wanlab, undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    [path] = out.glob("cells/text-*/samples.parquet")
    path.write_bytes(path.read_bytes()[:200])
    code, said = wanlab.run(out)
    assert code == 0 and "4 of 5 cells are done already" in said, said
    assert content(out) == content(undisturbed)
    assert {name: max(line["attempt"] for line in lines) for name, lines in logs(out).items()} == {
        name: 2 if name.startswith("text-") else 1 for name in logs(out)
    }
    assert RunFolder(out).attempts()[-1]["state"] == "ended"
