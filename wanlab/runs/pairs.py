"""A list of first frames with their prompts, as a CSV or JSONL file: read whole, with everything that is wrong in it at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wanlab.core.quote import quoted
from wanlab.data.media import MediaError
from wanlab.data.table import SHOWN, read_text, refuse, rows

from .document import UNTOLD, did_you_mean

COLUMNS = ("image", "prompt", "name", "last")
LONGEST = 255  # letters of a name that are compared with others


@dataclass(frozen=True)
class Pair:
    """One line: a file that is there, the prompt (may be empty), what the pair is called in tables, and maybe a last frame."""

    image: Path
    prompt: str
    name: str
    last: Path | None = None


def read_pairs(path: Path) -> list[Pair]:
    """The pairs of a .csv (with a header) or .jsonl file.

    Columns: image and last (relative to the list's folder unless absolute), prompt, name; last and name may be left out. Raises
    MediaError with every line that is wrong: a missing file (and the nearest name), an unknown column, no image, a name that stands
    twice, a last frame in some lines alone.
    """
    path = Path(path)
    text = read_text(path)
    if path.suffix not in (".csv", ".jsonl"):
        raise MediaError(f"{path}: a list of images ends in .csv or .jsonl")
    wrong: list[str] = []
    found = list(_csv(text, wrong) if path.suffix == ".csv" else _jsonl(text, wrong))
    pairs: list[Pair] = []
    seen: dict[str, int] = {}
    for number, row in found:
        pair = _pair(row, number, path, wrong)
        if pair is None:
            continue
        if pair.name in seen:
            wrong.append(f"{number}: the name {pair.name!r} stands in line {seen[pair.name]} too")
        seen[pair.name] = number
        pairs.append(pair)
    lacking = [pair.name for pair in pairs if pair.last is None]
    if pairs and 0 < len(lacking) < len(pairs):
        wrong.append(f"1: a last frame stands in some lines and not in others, as {lacking[0]!r}")
    if not found and not wrong:
        wrong.append("1: no pair of image and prompt")
    refuse(path, wrong)
    return pairs


def _csv(text: str, wrong: list[str]) -> Sequence[tuple[int, Mapping[str, Any]]]:
    heads, found = rows(text, wrong)
    if wrong_head := _heads(heads):
        wrong.append(f"1: {wrong_head}")
        return []
    return found


def _jsonl(text: str, wrong: list[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(text.split("\n"), 1):  # a prompt may hold other breaks of lines
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            wrong.append(f"{number}: not JSON: {getattr(error, 'msg', error)}")
            continue
        if not isinstance(row, dict):
            wrong.append(f"{number}: expected an object with image and prompt")
        elif wrong_head := _heads([str(key) for key in row]):
            wrong.append(f"{number}: {wrong_head}")
        else:
            yield number, row


def _fault(row: Mapping[str, Any]) -> str | None:
    """What no column may hold, or None."""
    for column in COLUMNS:
        value = row.get(column)
        if not isinstance(value, str | None):
            return f"image and prompt are texts, and {column} is {quoted(value)}"
        if value and (found := UNTOLD.search(value)):
            return f"the character U+{ord(found.group()):04X} is no text"
    return None


def _heads(heads: list[str]) -> str | None:
    """What is wrong with the columns, or None."""
    if unknown := [head for head in dict.fromkeys(heads) if head not in COLUMNS]:
        named = ", ".join(f"{quoted(head)}{did_you_mean(head, COLUMNS)}" for head in unknown[:SHOWN])
        more = f" and {len(unknown) - SHOWN:,} more" if len(unknown) > SHOWN else ""
        return f"no column {named}{more}; a list of images has {', '.join(COLUMNS)}"
    missing = [column for column in COLUMNS[:2] if column not in heads]
    return f"the column {' and '.join(missing)} is missing" if missing else None


def _pair(row: Mapping[str, Any], number: int, path: Path, wrong: list[str]) -> Pair | None:
    if fault := _fault(row):
        wrong.append(f"{number}: {fault}")
        return None
    given, ends = (str(row.get(column) or "").strip() for column in ("image", "last"))
    if not given:
        wrong.append(f"{number}: no image")
        return None
    file, last = _file(given, number, path, wrong), _file(ends, number, path, wrong) if ends else None
    if file is None or (ends and last is None):
        return None
    return Pair(file, str(row["prompt"] or "").strip(), str(row.get("name") or f"{file.stem}-{number}").strip(), last)


def _file(given: str, number: int, path: Path, wrong: list[str]) -> Path | None:
    file = path.parent / given
    try:
        if file.is_file():
            return file
        known = [str(near.relative_to(path.parent)) for near in file.parent.glob("*")] if file.parent.is_dir() else []
    except OSError:  # a name that no file can have, as one of 300 letters
        known = []
    wrong.append(f"{number}: no file {quoted(given)} in {path.parent}{did_you_mean(given[:LONGEST], known)}")
    return None
