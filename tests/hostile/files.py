"""Files of weights and of records, and run folders, whole and then damaged."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from safetensors.torch import save

from tests.hostile.media import damaged
from tests.hostile.studies import ODD
from wanlab.graph import file_digest

WHOLE = save({"weight": torch.ones(3, 2), "bias": torch.zeros(2)})
HEAD = json.loads(WHOLE[8 : 8 + struct.unpack("<Q", WHOLE[:8])[0]])
HEADERS: list[Any] = [
    [],
    5,
    None,
    {"weight": []},
    {"weight": {}},
    {"weight": {"dtype": "F32"}},
    {"weight": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}},
    {"weight": {"dtype": "F8_E8M0", "shape": [4], "data_offsets": [0, 4]}},
    {"weight": {"dtype": "F32", "shape": "12", "data_offsets": [0, 8]}},
    {"weight": {"dtype": "F32", "shape": [-1, -2], "data_offsets": [0, 8]}},
    {"weight": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 0]}},
    {"weight": {"dtype": "F32", "shape": [1.5], "data_offsets": [0, 4]}},
    {"weight": {"dtype": "F32", "shape": [1], "data_offsets": [-8, -4]}},
    {
        "weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "bias": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    },
    {"__metadata__": 5},
    {"__metadata__": {"wanlab_record": "["}},
    {"__metadata__": {"wanlab_record": "{}"}},
    {
        "weight": {"dtype": "I64", "shape": [3, 2], "data_offsets": [0, 48]},
        "bias": {"dtype": "I64", "shape": [2], "data_offsets": [48, 64]},
    },
]


def weights_file(header: Any, values: bytes = b"\0" * 64, length: int | None = None) -> bytes:
    """A safetensors file with this header, which may be text."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + values


def safetensors() -> st.SearchStrategy[bytes]:
    """Files that a model's weights may be read from."""
    headed = st.builds(weights_file, st.sampled_from(HEADERS), st.sampled_from([b"", b"\0" * 8, b"\0" * 32, b"\0" * 64]))
    lying = st.builds(lambda length: weights_file(HEAD, length=length), st.sampled_from([0, 1, 2**20, 2**40, 2**63, 2**64 - 1]))
    deep = st.sampled_from([weights_file(b"[" * 100_000), weights_file(b'{"a":' * 50_000), weights_file(b'{"a": NaN}')])
    return damaged(lambda draw: WHOLE) | damaged(lambda draw: WHOLE) | headed | lying | deep


def torch_files(folder: Path) -> st.SearchStrategy[bytes]:
    """Files as torch writes them: tensors, other things, a pickle that would run something."""
    path, found = folder / "one.pth", []
    for value in ({"weight": torch.ones(3, 2)}, [1, 2], {"a": 5}, {"state_dict": {"weight": torch.ones(2)}}):
        torch.save(value, path)
        found.append(path.read_bytes())
    found += [b"\x80\x04cos\nsystem\n(S'echo'\ntR.", b"cos\nsystem\n(S'echo'\ntR.", b"PK\x03\x04" + b"\0" * 40]
    return damaged(lambda draw: draw(st.sampled_from(found)))


@st.composite
def changed_json(draw: st.DrawFn, data: Any) -> str:
    """The text of plain data that was changed in a place or two."""
    from tests.hostile.studies import holder, places

    data = json.loads(json.dumps(data))
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from([one for one in places(data) if one] or [()]))
        if not path:
            break
        held = holder(data, path)
        if draw(st.booleans()):
            held[path[-1]] = json.loads(json.dumps(draw(st.sampled_from(ODD))))
        else:
            del held[path[-1]]
    text = json.dumps(data)
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


Harm = tuple[str, str, Any]  # the file (relative), what is done, and with what


def harms(root: Path) -> st.SearchStrategy[list[Harm]]:
    """What may have happened to a run folder."""
    names = sorted(str(path.relative_to(root)) for path in root.rglob("*"))
    names += ["cells", "report", "reference", "study.yaml", "environment.json", "attempts.jsonl", ".lock"]
    written = ["cut", "change", "cut, restated", "change, restated", "text", "lines"]
    what = st.sampled_from([*written, "remove", "folder", "file", "link"])
    text = st.sampled_from(
        ["", "5", "null", "[]", "{}", "a: [", '{"chunk": 1}', "&a [*a]", "\0", "[" * 3000, '{"state": "ok", "chunk": "x"}', "!!x y"]
    )
    return st.lists(st.tuples(st.sampled_from(names), what, st.tuples(st.integers(0, 2000), text)), min_size=1, max_size=2)


def restate(mark: Path, path: Path) -> None:
    """Let DONE, where it can still be read, state the checksum that the file beside it has now."""
    try:
        sums = json.loads(mark.read_text())
    except ValueError:
        return
    if isinstance(sums, dict):
        mark.write_text(json.dumps(sums | {path.name: file_digest(path)}))


def harm(root: Path, outside: Path, done: Harm) -> None:
    """Do to a folder what a harm says. `outside` is where links lead; restated: DONE has the new checksum."""
    name, said, (at, text) = done
    what, _, restated = said.partition(", ")
    path = root / name
    if not path.parent.is_dir() or not path.parent.resolve().is_relative_to(root.resolve()):
        return  # an earlier harm took its folder away, or made it a link
    if what in ("remove", "folder", "file", "link"):
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        make: dict[str, Callable[[], Any]] = {
            "remove": lambda: None,
            "folder": path.mkdir,
            "file": lambda: path.write_text(text),
            "link": lambda: path.symlink_to(outside / ("folder" if at % 2 else "file.txt")),
        }
        make[what]()
    elif path.is_file() and not path.is_symlink():
        data = path.read_bytes()
        place = at % (len(data) + 1)
        if what == "lines":
            path.write_bytes(data + text.encode() + b"\n" + b"\xff\n")
        else:
            path.write_bytes(
                {"cut": data[:place], "change": data[:place] + b"\xff" + data[place + 1 :], "text": text.encode()}[what]
            )
        if restated and (done_file := path.parent / "DONE").is_file() and not done_file.is_symlink() and path != done_file:
            restate(done_file, path)
