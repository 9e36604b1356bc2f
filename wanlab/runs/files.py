"""Files that are whole or not there: written under a temporary name, renamed, never broken off by a signal."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from safetensors import SafetensorError

from .document import read

STOPPING = (signal.SIGINT, signal.SIGTERM)  # Ctrl-C, and what Slurm and `kill` send


class RunFolderError(ValueError):
    """The run folder cannot be used or written; the message says why and what helps."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which `kill` and schedulers send: the run stops as by Ctrl-C, and the exit code says which it was."""


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold back Ctrl-C and SIGTERM until the block is finished (main thread only; signals do not arrive elsewhere)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pending: list[int] = []
    before = {number: signal.signal(number, lambda number, frame: pending.append(number)) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for caught in pending[:1]:
        signal.raise_signal(caught)  # to whoever listened before


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Within the block SIGTERM stops the run as Ctrl-C does: with a KeyboardInterrupt, Terminated (main thread only)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def demand_place(out: Path, option: str = "--out", example: str = "out.mp4") -> None:
    """Raise ValueError where a file cannot be written, before minutes are spent on what is to be written there."""
    if out.is_dir():
        raise ValueError(f"{option} {out}: a folder; say the name of a file, for example {out / example}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"{option} {out}: the folder {out.parent} cannot be made ({error.strerror})") from None
    if not os.access(out.parent, os.W_OK):
        raise ValueError(f"{option} {out}: the folder {out.parent} cannot be written to")


def no_link(path: str, flags: int) -> int:
    """An opener for what is written in place: a link is refused, since nobody knows where it leads."""
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


@contextlib.contextmanager
def telling(path: Path) -> Iterator[None]:
    """Say of a write of `path` that fails within the block what that means and what helps, as a RunFolderError."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise explained(error, path) from error


def within(folder: Path, name: str) -> Path:
    """The file of this name in `folder`. Raises RunFolderError for a name that leads elsewhere, into a folder below it too."""
    if (folder / name).name != name or name == "..":
        raise RunFolderError(f"no file of {folder} can be called {name!r}: it leads elsewhere")
    return folder / name


def write(path: Path, fill: Callable[[Path], Any]) -> None:
    """Let `fill` write a temporary file beside `path`, then rename it. Raises RunFolderError for a full disk."""
    temporary = path.with_name(f".{path.stem}.{platform.node()}-{os.getpid()}.part{path.suffix}")
    try:
        with telling(path), uninterrupted():
            path.parent.mkdir(parents=True, exist_ok=True)
            fill(temporary)
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # of a folder that cannot be written to, which was told above
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8; see `write`."""
    write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def append(path: Path, line: str) -> None:
    """Append one line to a log; one that a kill cut off before it keeps a line to itself. Raises RunFolderError for a full disk."""
    with telling(path), uninterrupted():
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab+", opener=no_link) as stream:
            cut = stream.tell() > 0 and stream.seek(-1, os.SEEK_END) >= 0 and stream.read() != b"\n"
            stream.write(b"\n" * cut + line.encode() + b"\n")


def sweep(folder: Path) -> None:
    """Remove the temporary files below `folder`, left by a writer that was killed. Nobody may be writing there."""
    for left in folder.rglob(".*.part*"):
        if not left.is_dir():  # a cell may be called so
            left.unlink(missing_ok=True)


def to_yaml(data: Any) -> str:
    """Plain data as YAML text, keys in the order given."""
    stream = StringIO()
    dumper: Any = YAML(typ="safe", pure=True)
    dumper.default_flow_style = False
    dumper.sort_base_mapping_type_on_output = False
    dumper.width = 110
    dumper.dump(data, stream)
    return stream.getvalue()


def from_yaml(path: Path) -> Any:
    """The data of a YAML file that wanlab wrote. Raises StudyError where it is damaged, or not there."""
    return read(path).data


def explained(error: BaseException, path: Path) -> RunFolderError:
    """What a failed write means to the person at the terminal."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error):
        free = shutil.disk_usage(path.parent if path.parent.exists() else path.anchor).free / 1024**2
        return RunFolderError(
            f"the disk is full ({free:.0f} MiB free) while writing {path}. Nothing finished is lost: "
            "make room and give the same command again, it goes on where it stopped"
        )
    if number == errno.ELOOP:
        return RunFolderError(f"{path} is a link, and nothing is written through one: remove it, or choose another --out")
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        reason = getattr(error, "strerror", None) or error
        return RunFolderError(f"{path.parent} cannot be written to ({reason}); choose another folder with --out")
    return RunFolderError(f"writing {path} failed: {error}")
