"""YAML 1.2 text with the place of every key and value, so that a mistake can be shown where it stands.

PyYAML reads `1e-4` as a string, `no` as False and takes the last of two equal keys; in a grid each of these is a wrong
result. Here the values come from ruamel.yaml (YAML 1.2), the places from its node tree, and equal keys are an error.

A file may come from a stranger: tags are refused, dates are words, and what aliases unfold to, how deep a file is and how
large are bounded before anything is built of it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.tokens import TagToken

Loc = tuple[str | int, ...]
LARGEST = 32 * 2**20  # bytes of a file
DEEPEST = 50  # levels of mappings and lists; a study has about ten
UNFOLDED = 100_000  # values that stand where an alias does
BRACKETS = 500  # that are open at once, in words and lists together
DIGITS = 1000  # of a whole number
WIDEST = 160  # letters of a line that a message shows
TOLD = 60  # mistakes that one message shows
UNTOLD = re.compile("[\0\ud800-\udfff]")  # no text: what ends a file's name early, and halves of letters, which no file can hold


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
            value = parse(right).data if right.strip() else None
        except StudyError as error:
            wrong = "; ".join(problem.message for problem in error.problems)
            raise StudyError([], f"--set {_clipped(setting)}: the value: {wrong}") from None
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
        more = [f"{self.name}: and {len(ordered) - TOLD} more mistakes"] if len(ordered) > TOLD else []
        return StudyError(ordered, "\n".join([*map(self._show, ordered[:TOLD]), *more]))

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
        line, at = self.lines[problem.line - 1], (problem.column or 1) - 1
        if len(line) > WIDEST:
            start = max(0, min(at - WIDEST // 2, len(line) - WIDEST))
            before, after = "…" * (start > 0), "…" * (start + WIDEST < len(line))
            line, at = f"{before}{line[start : start + WIDEST]}{after}", at - start + len(before)
        return f"{head}\n    {line}\n    {' ' * at}^"


def read(path: Path) -> Document:
    """The document in `path`. Raises StudyError for a missing file, broken YAML, or keys that stand twice."""
    path = Path(path)
    try:
        with open(path, "rb") as stream:
            content = stream.read(LARGEST + 1)  # and no more, whatever stands there
        text = content.decode("utf-8")
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
    if len(content) > LARGEST:
        raise StudyError([], f"{path}: more than {LARGEST // 2**20} MiB, which is no file of settings")
    return parse(text.replace("\r\n", "\n"), str(path))


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
        if _brackets(text) > BRACKETS:
            raise RecursionError
        if "!" in text:
            _no_tags(text, document)
        node = _loader().compose(text)
        if node is not None:
            wrong: list[Problem] = []
            _Marks(document, wrong).mark(node, ())
            if wrong:
                raise document.error(wrong)
            document.data = _loader().constructor.construct_document(node)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = (mark.line + 1, mark.column + 1) if mark is not None else (None, None)
        raise document.error([Problem((), f"not YAML: {_broken(error, text)}", *place)]) from None
    except YAMLError as error:
        raise document.error([Problem((), f"not YAML: {_first_line(error)}")]) from None
    except RecursionError:
        raise document.error([Problem((), f"nested too deeply: at most {DEEPEST} levels")]) from None
    return document


class _Constructor(SafeConstructor):
    """Plain values alone: a date is a word, as YAML 1.2 has it."""


_Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)


def _loader() -> YAML:
    loader = YAML(typ="safe", pure=True)
    loader.Constructor = _Constructor
    return loader


def _brackets(text: str) -> int:
    """How many brackets are open at most, those within words too: a text with very many takes a scanner very long."""
    depth = most = 0
    for mark in re.finditer(r"[\[\]{}]", text):
        depth = max(0, depth + (1 if mark.group() in "[{" else -1))
        most = max(most, depth)
    return most


def _no_tags(text: str, document: Document) -> None:
    """Raise StudyError for tags: a file of settings says what a value is by how it is written."""
    tags = [token for token in _loader().scan(text) if isinstance(token, TagToken)]
    if tags:
        places = [(token.start_mark.line + 1, token.start_mark.column + 1) for token in tags]
        what = "a tag (!...) is not read here: write the value as it is, in quotes where it begins with !"
        raise document.error([Problem((), what, *place) for place in places])


def _broken(error: YAMLError, text: str) -> str:
    """What is wrong with text that is not YAML; where brackets in a word (a metric's preset) are the reason, that too."""
    said, mark = getattr(error, "problem", None) or _first_line(error), getattr(error, "problem_mark", None)
    for word in re.finditer(r"[^\[\]{},:\s]+\[[^\[\]{},\s]*\]", text.splitlines()[mark.line] if mark and "got '['" in said else ""):
        if mark and word.start() < mark.column < word.end():
            said += f'; a word with brackets stands in quotes: "{word.group()}"'
    return said


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _Marks:
    """Notes where everything stands, and in `wrong` what no file of settings holds: keys that stand twice, values without end."""

    def __init__(self, document: Document, wrong: list[Problem]) -> None:
        self.document, self.wrong = document, wrong
        self.seen: set[int] = set()
        self.unfolded = 0

    def mark(self, node: Node, path: Loc, within: tuple[int, ...] = (), alias: bool = False) -> None:
        """Note where `node` and everything below it stand."""
        place = (node.start_mark.line + 1, node.start_mark.column + 1)
        alias = alias or id(node) in self.seen
        self.seen.add(id(node))
        self.unfolded += alias
        if fault := self._fault(node, within):
            self.wrong.append(Problem(path, fault, *place))
            return
        self.document.values.setdefault(path, place)
        if isinstance(node, SequenceNode):
            for index, item in enumerate(node.value):
                self.mark(item, (*path, index), (*within, id(node)), alias)
        elif isinstance(node, MappingNode):
            self._mapping(node, path, (*within, id(node)), alias)

    def _mapping(self, node: MappingNode, path: Loc, within: tuple[int, ...], alias: bool) -> None:
        seen: dict[str, int] = {}
        for key, value in node.value:
            name = key.value if isinstance(key, ScalarNode) else str(type(key).__name__)
            line, column = key.start_mark.line + 1, key.start_mark.column + 1
            fault = "a key is one word or number" if not isinstance(key, ScalarNode) else self._fault(key, within)
            if name in seen:
                fault = f"this key stands twice (first in line {seen[name]})"
            if fault:
                self.wrong.append(Problem((*path, name), fault, line, column))
                continue
            seen[name] = line
            self.document.keys[(*path, name)] = (line, column)
            self.mark(value, (*path, name), within, alias)

    def _fault(self, node: Node, within: tuple[int, ...]) -> str | None:
        """Why a value is none that can be used, or None."""
        if id(node) in within:
            return f"nested too deeply: at most {DEEPEST} levels, and nothing within itself"
        if len(within) > DEEPEST:
            return f"nested too deeply: at most {DEEPEST} levels"
        if self.unfolded > UNFOLDED:
            return f"its aliases stand for more than {UNFOLDED:,} values"
        if isinstance(node, ScalarNode) and (found := UNTOLD.search(node.value)):
            return f"the character U+{ord(found.group()):04X} is no text"
        if isinstance(node, ScalarNode) and node.tag == "tag:yaml.org,2002:int" and len(node.value) > DIGITS:
            return f"a number of {len(node.value):,} digits"
        return None


def _clipped(text: str) -> str:
    return text if len(text) <= WIDEST else f"{text[:WIDEST]}…"


def _along(data: Any, parts: Sequence[str]) -> Loc:
    """A dotted path as steps; a key of the data that holds dots itself (`sampler.guidance` of an axis) is one step."""
    path: list[str | int] = []
    while parts:
        keys = [str(key) for key in data] if isinstance(data, dict) else []
        taken = next((n for n in range(len(parts), 0, -1) if ".".join(parts[:n]) in keys), 1)
        step: str | int = ".".join(parts[:taken])
        if taken == 1 and re.fullmatch("[0-9]{1,9}", parts[0]):
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
