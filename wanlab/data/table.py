"""Tables of texts, as people write and programs export them: CSV with a header, in UTF-8; and prompts by the name of a clip."""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted
from wanlab.data.media import MediaError

COLUMNS = ("file", "prompt")  # of captions
SHOWN = 12  # mistakes that one message lists

Line = tuple[int, dict[str, str | None]]  # where a row begins, and its values; None: the line ends before the column


def read_text(path: Path) -> str:
    """A text file, with line breaks as they are and without the mark that some programs begin with. Raises MediaError, naming the
    line, where it is not UTF-8."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise MediaError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise MediaError(f"{path}:{line}: not a text file (UTF-8)") from None


def refuse(path: Path, wrong: Sequence[str]) -> None:
    """Raise MediaError for mistakes ("LINE: what") that a file has, if there are any, some of them in full."""
    if wrong:
        more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        raise MediaError("\n".join([*(f"{path}:{line}" for line in wrong[:SHOWN]), *more]))


def rows(text: str, wrong: list[str]) -> tuple[list[str], list[Line]]:
    """The columns and the rows of a CSV. A quoted text may hold line breaks, and only a line break ends a row. What is no CSV, a
    column that stands twice and more fields than columns are appended to `wrong` as "LINE: what"."""
    records = _records(text, wrong)
    _, heads = next(records, (1, []))
    heads = [head.strip() for head in heads]
    if twice := [head for head, count in Counter(heads).items() if count > 1]:
        wrong.append(f"1: the column {quoted(twice[0])} stands twice")
        return heads, []
    found: list[Line] = []
    for line, fields in records:
        if len(fields) > len(heads):
            wrong.append(f"{line}: more fields than columns; a prompt with a comma stands in quotes")
        else:
            found.append((line, dict(zip(heads, [*fields, *[None] * (len(heads) - len(fields))]))))
    return heads, found


def _records(text: str, wrong: list[str]) -> Iterator[tuple[int, list[str]]]:
    """Lines that are not empty, by the number of the first that each takes."""
    reader = csv.reader(io.StringIO(text, newline=""), skipinitialspace=True, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            wrong.append(f"{line}: no CSV from here on: {error}")
            return
        if fields is None:
            return
        if fields:
            yield line, fields


def known_as(names: Iterable[str]) -> Mapping[str, list[str]]:
    """What each file may be called, its name or that without suffix, -> the names that this can mean; a whole name means itself."""
    names, found = list(names), defaultdict(list)
    for name in names:
        found[Path(name).stem].append(name)
    return {**found, **{name: [name] for name in names}}


def read_captions(path: Path, names: Iterable[str], empty: bool = True) -> dict[str, str]:
    """Name of a clip -> its prompt, from a CSV with the columns file (with suffix or without) and prompt.

    names: the clips there are; empty: whether a prompt may be. Raises MediaError with every line that is wrong: a clip that is not
    there (and the nearest), one that stands twice, a name that fits two, no prompt; for other columns, and for no line at all.
    """
    wrong: list[str] = []
    heads, found = rows(read_text(path), wrong)
    if heads and not set(COLUMNS) <= set(heads):
        wrong.append(f"1: captions have the columns {', '.join(COLUMNS)}; this one has {quoted(', '.join(heads))}")
        found = []
    if not found and not wrong:
        wrong.append("1: no caption: a line with the column names, then one for each clip, is wanted")
    known, lines, captions = known_as(names), dict[str, int](), dict[str, str]()
    for line, row in found:
        file, prompt = row["file"] or "", row["prompt"]
        meant = known.get(file, [])
        if prompt is None:
            wrong.append(f"{line}: no prompt: the line ends before it")
        elif not empty and not prompt.strip():
            wrong.append(f"{line}: no prompt of {quoted(file)}")
        elif not meant:
            wrong.append(f"{line}: no clip {quoted(file)}{suggestion(file, known) if len(wrong) < SHOWN else ''}")
        elif len(meant) > 1:
            wrong.append(f"{line}: {quoted(file)} may be {' or '.join(meant)}: write the suffix")
        elif meant[0] in lines:
            wrong.append(f"{line}: {meant[0]} stands in line {lines[meant[0]]} too")
        else:
            lines[meant[0]], captions[meant[0]] = line, prompt.strip()
    refuse(path, wrong)
    return captions
