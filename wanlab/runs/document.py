"""YAML 1.2 text with the place of every key and value, so that a mistake can be shown where it stands.

PyYAML reads `1e-4` as a string, `no` as False and takes the last of two equal keys; in a grid each of these is a wrong
result. Here the values come from ruamel.yaml (YAML 1.2), the places from its node tree, and equal keys are an error.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Loc = tuple[str | int, ...]
DEEPEST = 50  # levels of nesting; a study has about ten
REPEATS = 100_000  # values that aliases may stand for a second time: nine lines of nine aliases each would be 400 million


@dataclass(frozen=True)
class Problem:
    """One mistake: where in the data (`path`), what, and its line and column in the file (1-based, None if outside)."""

    path: Loc
    message: str
    line: int | None = None
    column: int | None = None


class StudyError(ValueError):
    """A file that cannot be used, with all its mistakes; the text is ready to be shown."""

    def __init__(self, problems: Sequence[Problem], text: str):
        super().__init__(text)
        self.problems = list(problems)


def did_you_mean(word: str, known: Iterable[str], count: int = 1) -> str:
    """' (did you mean ...?)' for the known words close to `word`, or an empty string."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=count, cutoff=0.5)
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


@dataclass
class Document:
    """The data of a YAML file, the marks of its keys and values, and where data that was made from it comes from (`origins`)."""

    name: str
    lines: list[str]
    data: Any
    keys: dict[Loc, tuple[int, int]] = field(default_factory=dict)
    values: dict[Loc, tuple[int, int]] = field(default_factory=dict)
    overrides: dict[Loc, str] = field(default_factory=dict)
    origins: dict[Loc, Loc] = field(default_factory=dict)

    def override(self, setting: str) -> None:
        """Apply one `a.b=c` (the value is YAML; numbers address list items). Raises StudyError for a wrong form."""
        left, equals, right = setting.partition("=")
        path = _along(self.data, left.strip().split("."))
        if not equals or "" in path:
            raise StudyError([], f"--set {setting}: expected the form path.to.key=value")
        try:
            value = _loader().load(right) if right.strip() else None
        except YAMLError as error:
            raise StudyError([], f"--set {setting}: the value is not YAML: {_broken(error, right)}") from None
        self.data = _with(self.data, path, value, setting)
        self.overrides[path] = setting

    def problem(self, path: Loc, message: str, at_key: bool = False) -> Problem:
        """A problem at `path`, placed at the key or at the value, or at the nearest parent that the file holds."""
        path = self._source(path)
        places = (self.keys, self.values) if at_key else (self.values, self.keys)
        for length in range(len(path), -1, -1):
            for table in places:
                if path[:length] in table:
                    return Problem(path, message, *table[path[:length]])
        return Problem(path, message)

    def _source(self, path: Loc) -> Loc:
        """Where in the file the data at `path` comes from."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.origins:
                found = self._source((*self.origins[path[:length]], *path[length:]))
                while isinstance(found[-1], int) and found not in self.values and found[:-1] in self.values:
                    found = found[:-1]  # a single word was read as a list of one
                return found
        return path

    def error(self, problems: Sequence[Problem]) -> StudyError:
        """All problems as one error, in the order of the file, each once."""
        ordered = sorted(dict.fromkeys(problems), key=lambda p: (p.line or 0, p.column or 0))
        return StudyError(ordered, "\n".join(self._show(problem) for problem in ordered))

    def _show(self, problem: Problem) -> str:
        where = ".".join(map(str, problem.path)) or "(file)"
        setting = next(
            (
                text
                for path, text in self.overrides.items()
                if problem.path[: len(path)] == path or path[: len(problem.path)] == problem.path
            ),
            None,
        )
        if setting is not None and (
            problem.line is None or problem.path in self.overrides or any(problem.path[: len(p)] == p for p in self.overrides)
        ):
            return f"--set {setting}: {where}: {problem.message}"
        if problem.line is None:
            return f"{self.name}: {where}: {problem.message}"
        head = f"{self.name}:{problem.line}:{problem.column}: {where}: {problem.message}"
        if not 0 < problem.line <= len(self.lines):
            return head
        return f"{head}\n    {self.lines[problem.line - 1]}\n    {' ' * (problem.column - 1)}^"


def read(path: Path) -> Document:
    """The document in `path`. Raises StudyError for a missing file, broken YAML, or keys that stand twice."""
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        folder = path.parent if path.parent.is_dir() else Path()
        known = [str(file) for file in folder.glob("*.y*ml")]
        raise StudyError([], f"{path}: no such file{did_you_mean(str(path), known)}") from None
    except IsADirectoryError:
        raise StudyError([], f"{path}: a folder, where a YAML file is wanted") from None
    except UnicodeDecodeError:
        raise StudyError([], f"{path}: not a text file (UTF-8), where YAML is wanted") from None
    except OSError as error:
        raise StudyError([], f"{path}: cannot be read: {error.strerror}") from None
    return parse(text, str(path))


def located(path: Path, home: Path | None) -> Path:
    """Where a file (or folder) lies that a document in the folder `home` names: seen from the current folder, or else from `home`.

    Raises StudyError with both places where it lies in neither; of one place alone, whoever reads the file tells.
    """
    if home is None or path.exists() or home / path == path.absolute():
        return path
    beside = home / path
    if not beside.exists():
        near = [file.name for folder in (path.parent, beside.parent) if folder.is_dir() for file in folder.iterdir()]
        places = f"neither here ({Path.cwd()}) nor beside the study file ({home})"
        raise StudyError([], f"{path}: no such file, {places}{did_you_mean(path.name, near)}")
    return beside


def parse(text: str, name: str = "(text)") -> Document:
    """The document in `text`; see `read`."""
    document = Document(name, text.splitlines(), None)
    try:
        node = YAML(typ="safe", pure=True).compose(text)
        twice: list[Problem] = []
        if node is not None:
            _mark(node, (), document, twice, Aliases())
        if twice:
            raise document.error(twice)
        document.data = None if node is None else YAML(typ="safe", pure=True).constructor.construct_document(node)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark is not None else (None, None)
        raise document.error([Problem((), f"not YAML: {_broken(error, text)}", *place)]) from None
    except YAMLError as error:
        raise document.error([Problem((), f"not YAML: {_first_line(error)}")]) from None
    except RecursionError:
        raise document.error([Problem((), f"nested too deeply: at most {DEEPEST} levels")]) from None
    return document


def _loader() -> YAML:
    return YAML(typ="safe", pure=True)


def _broken(error: YAMLError, text: str) -> str:
    """What is wrong with text that is not YAML; where brackets in a word (a metric's preset) are the reason, that too."""
    said, mark = getattr(error, "problem", None) or _first_line(error), getattr(error, "problem_mark", None)
    for word in re.finditer(r"[^\[\]{},:\s]+\[[^\[\]{},\s]*\]", text.splitlines()[mark.line] if mark and "got '['" in said else ""):
        if word.start() < mark.column < word.end():
            said += f'; a word with brackets stands in quotes: "{word.group()}"'
    return said


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Aliases:
    """What was met while a document is gone through, so that a few lines of aliases cannot unfold without end."""

    def __init__(self) -> None:
        self._met: set[int] = set()
        self._repeats = 0

    def meet(self, node: Node, path: Loc, document: Document) -> None:
        """Raises StudyError for a node that lies too deep (or in itself), or once aliases stand for too much."""
        place = (node.start_mark.line + 1, node.start_mark.column + 1)
        self._repeats += id(node) in self._met
        self._met.add(id(node))
        if len(path) > DEEPEST:
            said = f"nested too deeply: at most {DEEPEST} levels, and nothing within itself"
            raise document.error([Problem(path[:3], said, *place)])
        if self._repeats > REPEATS:
            raise document.error([Problem(path[:3], f"its aliases stand for more than {REPEATS:,} values", *place)])


def _mark(node: Node, path: Loc, document: Document, twice: list[Problem], aliases: Aliases) -> None:
    """Note where `node` and everything below it stand; collect keys that stand twice in one mapping."""
    aliases.meet(node, path, document)
    document.values.setdefault(path, (node.start_mark.line + 1, node.start_mark.column + 1))
    if isinstance(node, SequenceNode):
        for index, item in enumerate(node.value):
            _mark(item, (*path, index), document, twice, aliases)
    if not isinstance(node, MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        name = key.value if isinstance(key, ScalarNode) else str(key.value)
        line, column = key.start_mark.line + 1, key.start_mark.column + 1
        if name in seen:
            twice.append(Problem((*path, name), f"this key stands twice (first in line {seen[name]})", line, column))
            continue
        seen[name] = line
        document.keys[(*path, name)] = (line, column)
        _mark(value, (*path, name), document, twice, aliases)


def _along(data: Any, parts: Sequence[str]) -> Loc:
    """A dotted path as steps; a key of the data that holds dots itself (`sampler.guidance` of an axis) is one step."""
    path: list[str | int] = []
    while parts:
        keys = [str(key) for key in data] if isinstance(data, dict) else []
        taken = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in keys), 1)
        step: str | int = ".".join(parts[:taken])
        if taken == 1 and parts[0].isdigit():
            step = int(parts[0])
        path.append(step)
        if isinstance(data, list):
            data = data[step] if isinstance(step, int) and step < len(data) else None
        else:
            data = data.get(str(step)) if isinstance(data, dict) else None
        parts = parts[taken:]
    return tuple(path)


def _with(data: Any, path: Loc, value: Any, setting: str) -> Any:
    """A copy of `data` with `value` at `path`; missing mappings on the way are made."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(data, list):
        if not isinstance(head, int) or head >= len(data):
            raise StudyError([], f"--set {setting}: {head!r} is not an index into a list of {len(data)}")
        return [_with(item, rest, value, setting) if i == head else item for i, item in enumerate(data)]
    if data is not None and not isinstance(data, dict):
        raise StudyError([], f"--set {setting}: {head!r} lies inside the plain value {data!r}")
    data = dict(data or {})
    data[str(head)] = _with(data.get(str(head)), rest, value, setting)
    return data
