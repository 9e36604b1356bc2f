"""Whether files are the published ones: their sha256 beside what the hub told when they were downloaded, or one that is given."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from wanlab.core.nearest import suggestion
from wanlab.pipelines.weights import WeightsError

_SHA256 = re.compile(r"[0-9a-f]{64}")


def demand(files: Iterable[Path], verify: bool | Mapping[str, str]) -> None:
    """Raise WeightsError for the first file that is not what it should be.

    verify: True: what the hub told of each (where nothing is known of one, that raises); or file's name -> sha256; False: nothing.
    """
    if not verify:
        return
    by_name = {file.name: file for file in files}
    wanted = {name: _told(file) for name, file in by_name.items()} if verify is True else dict(verify)
    for name, digest in wanted.items():
        if name not in by_name:
            raise WeightsError(f"verify names {name!r}, which is not read{suggestion(name, by_name)}; read: {', '.join(by_name)}")
        found = sha256(by_name[name])
        if found != digest.lower():
            raise WeightsError(f"{by_name[name]} is damaged or was replaced: its sha256 is {found}, not {digest}")


def sha256(file: Path) -> str:
    """Hex digest of a file."""
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _told(file: Path) -> str:
    """What the hub told of a file: in its cache the name of what a link leads to; beside a folder of downloads, a note for each."""
    linked = file.resolve()
    if linked.parent.name == "blobs" and _SHA256.fullmatch(linked.name):
        return linked.name
    for root in file.absolute().parents:
        note = root / ".cache" / "huggingface" / "download" / f"{file.absolute().relative_to(root)}.metadata"
        if note.is_file():
            lines = note.read_text().split()
            if len(lines) > 1 and _SHA256.fullmatch(lines[1]):
                return lines[1]
    raise WeightsError(f"nothing is known of the sha256 of {file}, as it was not downloaded from the hub: "
                       f"give it, verify={{{file.name!r}: '…'}}, or leave verify out")
