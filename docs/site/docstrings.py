"""Docstrings as Markdown: the house writes tables of names in columns, and formulas and globs as they are.

An extension of griffe. Code after an indent of four spaces stays code; a column of names becomes a list; letters that Markdown
would take for marks (`*` of globs, `<` of placeholders) stay letters.
"""

from __future__ import annotations

import ast
import re
from typing import Any

import griffe

NAME = re.compile(r"( {0,4})([\w`'\"\[(<*./][^\n]*?) {2,}(\S.*)")
SECTION = re.compile(r"(Args|Arguments|Raises|Returns|Yields|Attributes|Example|Examples|Note|Notes):\s*$")


class Docstrings(griffe.Extension):
    """Rewrites every docstring once it is loaded."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Called by griffe for each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = markdown(whole(obj) if obj.is_module else obj.docstring.value)


def whole(module: Any) -> str:
    """The docstring of a module as it stands in its file: dedented, an example that ends it would lose its indent."""
    return str(ast.literal_eval(ast.parse(module.filepath.read_text(encoding="utf-8")).body[0].value))  # type: ignore[attr-defined]


def markdown(text: str) -> str:
    """A docstring of the house as Markdown."""
    lines, found, section, width = text.splitlines(), [], False, 0
    at = 0
    while at < len(lines):
        line = lines[at]
        if SECTION.match(line):
            section = True
            found.append(line)
        elif section and (line.startswith(" ") or not line.strip()):
            found.append(escaped(line))
        elif code(lines, at):
            found.append(line)
        elif not line.startswith("    ") and (column := entry_of(line, width)):
            section, width = False, column.start(3)
            entry, at = gathered(lines, at, column)
            found += (["", entry] if found and found[-1].strip() and not found[-1].startswith("- ") else [entry])
        else:
            section, width = False, 0
            after = found and found[-1].startswith("- ")
            found += (["", escaped(line)] if after and line.strip() else [escaped(line)])
        at += 1
    return "\n".join(found)


def entry_of(line: str, width: int) -> re.Match[str] | None:
    """A line of a column: name, spaces, words; one space will do where the words begin below those of the line before."""
    narrow = re.fullmatch(rf"( *)(\S.{{{max(width - 2, 0)}}}) (\S.*)", line) if width > 2 else None
    return NAME.fullmatch(line) or (narrow if narrow and narrow.start(3) == width and "  " not in narrow[2].rstrip() else None)


def code(lines: list[str], at: int) -> bool:
    """Whether a line belongs to an indented block after a blank line (or opens the text)."""
    if not lines[at].startswith("    "):
        return False
    first = at
    while first > 0 and (lines[first - 1].startswith("    ") or not lines[first - 1].strip()):
        first -= 1
    return first > 0 and any(not line.strip() for line in lines[first - 1 : at + 1])


def gathered(lines: list[str], at: int, column: re.Match[str]) -> tuple[str, int]:
    """An entry of a column with the lines that go on below it, as an item of a list; and the last line that it took."""
    width = column.start(3)
    said = [column[3]]
    while at + 1 < len(lines) and lines[at + 1].startswith(" " * max(4, width - 4)) and lines[at + 1].strip():
        at += 1
        said.append(lines[at].strip())
    name = column[2].strip()
    return f"- {name if '`' in name else f'`{name}`'}: {escaped(' '.join(said))}", at


def escaped(line: str) -> str:
    """A line whose marks outside of code are letters."""
    parts = re.split(r"(`[^`]*`)", line)
    marks = re.compile(r"[*<](?=\S)|(?<=\S)\*|\[(?=[^\]]*\]\()")
    return "".join(part if part.startswith("`") else marks.sub(r"\\\g<0>", part) for part in parts)
