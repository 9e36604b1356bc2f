"""Who runs a folder: one process alone, or the shards of one split side by side.

The locks are the kernel's (`flock`): they end with the process that holds them, however it ends, and work on a folder that
several machines have mounted. `.lock` is held alone by a plain run and together by shards; each shard holds its own beside.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .files import RunFolderError, explained, no_link
from .shard import Shard

PATIENCE = 10.0  # seconds that a shard waits for a plain run that is just ending


@contextlib.contextmanager
def held(root: Path, shard: Shard | None = None) -> Iterator[list[str]]:
    """Hold the folder, alone or for one shard; yields the other shards at work, in words.

    Raises RunFolderError where another process runs the folder, the same shard, or a shard of another split.
    """
    with contextlib.ExitStack() as stack:
        if shard is None:
            if not _taken(stack, root / ".lock", fcntl.LOCK_EX):
                raise _busy(root, others(root) or [_holder(root / ".lock")])
            yield []
            return
        if not _taken(stack, root / ".lock", fcntl.LOCK_SH, PATIENCE):
            raise _busy(root, [_holder(root / ".lock")])
        if not _taken(stack, root / shard.lock, fcntl.LOCK_EX, 1.0):  # another shard may be looking at it just now
            raise _busy(root, [f"shard {shard} in {_holder(root / shard.lock)}"])
        beside = others(root, shard)
        if split := [line for line in beside if f"/{shard.of} in " not in line]:
            raise RunFolderError(
                f"{root} is being run in another split, by {', '.join(split)}; the shards of one run say the same n in --shard i/n"
            )
        yield beside


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Wait until nobody else holds the lock at `path`, and hold it; for moments."""
    with contextlib.ExitStack() as stack:
        _taken(stack, path, fcntl.LOCK_EX, float("inf"))
        yield


def others(root: Path, shard: Shard | None = None) -> list[str]:
    """The shards at work in a folder, beside this one: "shard 2/8 in process 17 on node3"."""
    found = []
    for path in sorted(root.glob(".lock-*-of-*")):
        other = Shard(*map(int, re.findall(r"\d+", path.name)))
        with open(path, encoding="utf-8") as stream:
            if other != shard and not _lock(stream, fcntl.LOCK_SH):
                found.append(f"shard {other} in {_holder(path)}")
    return found


def _taken(stack: contextlib.ExitStack, path: Path, kind: int, patience: float = 0.0) -> bool:
    """Take a lock until the stack is closed; False where another process has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        stream: IO[str] = open(path, "a+", encoding="utf-8", opener=no_link)  # noqa: SIM115 (the stack closes it)
        stack.enter_context(stream)
    except OSError as error:
        raise explained(error, path) from error
    deadline = time.monotonic() + patience
    while not _lock(stream, kind):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.05)
    if kind == fcntl.LOCK_EX:
        stream.truncate(0)
        stream.write(f"process {os.getpid()} on {platform.node()}")
        stream.flush()
    return True


def _lock(stream: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(stream, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        reason = f"{stream.name} cannot be locked ({error.strerror}): this file system keeps no locks, so two runners could not"
        raise RunFolderError(f"{reason} be kept apart; choose another folder with --out") from error
    return True


def _holder(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() or "another process"


def _busy(root: Path, by: list[str]) -> RunFolderError:
    return RunFolderError(f"{root} is being run by {', '.join(by)}; wait for it or choose another folder with --out")
