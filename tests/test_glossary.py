"""docs/glossary.md and the code say the same words: every word, name, component and axis of the one stands in the other."""

from __future__ import annotations

import ast
import functools
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pytest
from ruamel.yaml import YAML

import wanlab
from tests.test_house import PACKAGES, ROOT, parse, sources
from wanlab.core import Select, UnknownSite
from wanlab.core.mask import Mask
from wanlab.pipelines.base import Pipeline

PAGE = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
PUBLIC = ("wanlab", "wanlab/core", "wanlab/graph", "wanlab/measure", "wanlab/plots", "wanlab/training", "metrics")
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def rows(page: str, section: str) -> list[tuple[str, str]]:
    """(first column, second) of the table under a heading."""
    part = page.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| (.+?) \| (.+) \|$", part, flags=re.MULTILINE)[1:]


def words(page: str) -> list[str]:
    """What the first table explains."""
    return [word for column, _ in rows(page, "Words") for word in column.split(", ")]


@dataclass
class Code:
    """What the sources name: identifiers, strings that are no docstrings, and all of their text."""

    identifiers: set[str]
    strings: set[str]
    text: str

    @functools.cached_property
    def pieces(self) -> set[str]:
        """Identifiers in lower case with `_` between their words and at either end."""
        return {f"_{re.sub(r'(?<=[a-z0-9])(?=[A-Z])', '_', one).lower().strip('_')}_" for one in self.identifiers}

    @functools.cached_property
    def joined(self) -> str:
        """All strings."""
        return "\n".join(self.strings)

    def has(self, word: str) -> bool:
        """Whether a word is a part of an identifier or stands in a string; two words, whether they stand together anywhere."""
        ends = rf"{re.escape(word)}s?"
        if any(f"_{form}_" in one for one in self.pieces for form in (word.replace(" ", "_"), f"{word.replace(' ', '_')}s")):
            return True
        return bool(re.search(rf"\b{ends}\b", self.text if " " in word else self.joined))

    def names(self, name: str) -> bool:
        """Whether something is called exactly this, or a string is or holds it."""
        return name in self.identifiers or bool(re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", self.joined))


def named(node: ast.AST) -> str | None:
    """What a node of a syntax tree brings into the world by name."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return node.name
    if isinstance(node, ast.arg | ast.keyword):
        return node.arg
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        return node.target.id
    return node.attr if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) else None


def code_of(modules: list[tuple[str, ast.Module]], text: str) -> Code:
    """The names of some modules, told with what each is called."""
    identifiers, strings = {stem for stem, _ in modules}, set()
    for _, tree in modules:
        nodes = list(ast.walk(tree))
        docs = {id(node.body[0].value) for node in nodes if isinstance(node, DOCUMENTED) and node.body
                and isinstance(node.body[0], ast.Expr)}                                          # fmt: skip
        identifiers |= {name for node in nodes if (name := named(node))}
        strings |= {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
                    and id(node) not in docs}                                                    # fmt: skip
    return Code(identifiers, strings, text)


@functools.cache
def code() -> Code:
    """All of wanlab and metrics."""
    files = sources(*PACKAGES)
    return code_of([(path.stem, parse(path)) for path in files], "\n".join(path.read_text(encoding="utf-8") for path in files))


def test_every_word_of_the_glossary_stands_in_the_code() -> None:
    gone = [word for word in words(PAGE) if not code().has(word)]
    assert not gone, f"docs/glossary.md explains what the code does not say: {', '.join(gone)}"


def test_the_check_of_words_sees() -> None:
    source = '"""The docs say lens."""\nclass RunLedger:\n    content_key: str\n    def f(self, cells): print("no such place")'
    shown = code_of([("probe", ast.parse(source))], source)
    assert all(map(shown.has, ("ledger", "content key", "cell", "place", "probe")))
    assert not any(map(shown.has, ("lens", "led", "key content", "clock")))


# ------------------------------------------------------------------------------------------- what stands in backticks

@functools.cache
def shipped() -> Pipeline:
    """The shipped pipeline, without weights."""
    return wanlab.load("tiny", init="meta")


def untrue(said: str) -> str | None:
    """What is wrong with a name, call, site, option, mask or setting in backticks; None where it is as the code has it."""
    if re.fullmatch(r"[a-z]( [a-z])*", said):
        lacking = set(said.split()) - {column.strip("`") for column, _ in rows(PAGE, "Axes")}
        return f"no axis {', '.join(sorted(lacking))}" if lacking else None
    if re.fullmatch(r"[01*/;\d]+", said):
        return None if Mask.of(said) else "no mask"
    if said.startswith(("--", "wanlab ")):
        return None if code().names(said.removeprefix("wanlab ").split()[0]) else "no such command or option"
    if re.match(r"\w+:( |$)", said):
        return unknown_setting(YAML(typ="safe", pure=True).load(said))
    if re.match(r"[\w.]+\(.*\)$", said):
        return uncallable(ast.parse(said, mode="eval").body)
    home = ROOT / "wanlab" / said.removeprefix("wanlab.").replace(".", "/")
    if code().names(said) or home.is_dir() or home.with_suffix(".py").is_file():
        return None
    return siteless(said) if re.search(r"[.*@]", said) else "nothing is called so"


def unknown_setting(said: Any) -> str | None:
    """The first key, at any depth, that no setting of a study has."""
    from wanlab.runs import spec

    models = [one for one in vars(spec).values() if isinstance(one, type) and issubclass(one, spec.Part)]
    known = {name for model in models for name in model.model_fields}
    below = [unknown_setting(value) for value in said.values() if isinstance(value, dict)]
    return next((f"no setting {key}" for key in said if key not in known), None) or next((one for one in below if one), None)


def uncallable(call: ast.expr) -> str | None:
    """Why a call is none: of `wanlab.x`, of `pipe.x`, or of a method of a pipeline."""
    assert isinstance(call, ast.Call)
    parts = ast.unparse(call.func).split(".")
    method = parts[0] != "wanlab"
    owner: Any = Pipeline if method else wanlab
    function = getattr(owner, parts[-1], None)
    if len(parts) > 2 or (method and parts[:-1] not in ([], ["pipe"])) or function is None:
        return f"no {ast.unparse(call.func)}"
    try:
        inspect.signature(function).bind_partial(*([None] * method), *call.args, **{str(key.arg): None for key in call.keywords})
    except TypeError as error:
        return str(error)
    return None


def siteless(said: str) -> str | None:
    """Why a selection, or the end of the name of a site, reaches nothing in the shipped pipeline."""
    pattern = Select.of(said.partition(" -> ")[0].strip('"')).at
    for one in (pattern, f"**.{pattern}"):
        try:
            return None if shipped().sites(one) else f"no site {one}"
        except UnknownSite:
            continue
    return "no site has this name"


def test_what_the_glossary_puts_in_backticks_is_what_the_code_has() -> None:
    wrong = {said: reason for said in re.findall(r"`([^`]+)`", PAGE) if (reason := untrue(said))}
    assert not wrong, f"docs/glossary.md: {wrong}"


@pytest.mark.parametrize("said", [
    "b t c h w", "--shards 2/8", "windows: 0:4", "share: {packs: 4}", "wanlab.laod('tiny')", "pipe.remove('text')",
    "generate(gradient=True)", "generator.middle.temporal.attn.z", "attn.entropies", "no_such_name", "analysis.dictionaries"])
def test_the_check_of_backticks_sees(said: str) -> None:
    assert untrue(said)


# --------------------------------------------------------------------------------------------------------- components

def removable(tree: ast.Module) -> Iterator[str]:
    """Names that a module gives to components: keys of dictionaries in functions and assignments that are called so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.name.endswith("components"):
            inside: list[ast.AST] = list(node.body)
        elif isinstance(node, ast.Assign) and any(ast.unparse(one).endswith(".components") for one in node.targets):
            inside = [node.value]
        else:
            continue
        for one in (below for part in inside for below in ast.walk(part)):
            if isinstance(one, ast.Dict):
                yield from (key.value for key in one.keys if isinstance(key, ast.Constant))


def test_components_are_those_of_the_pipelines() -> None:
    real = {name for path in sources("wanlab/pipelines") for name in removable(parse(path))}
    assert set(shipped().components) <= real, "the check does not see how a pipeline states its components"
    table = rows(PAGE, "Components")
    said = set(re.findall(r"`([\w.]+)`", "\n".join(column + meaning for column, meaning in table)))
    whole = {column.strip("`") for column, _ in table}
    assert whole <= real, f"no pipeline has: {', '.join(sorted(whole - real))}"
    assert real <= said, f"docs/glossary.md lacks: {', '.join(sorted(real - said))}"


# --------------------------------------------------------------------------------------------------------------- axes

def test_axes_are_those_of_the_sites() -> None:
    said = {column.strip("`") for column, _ in rows(PAGE, "Axes")}
    names = next(node.value for node in parse(ROOT / "wanlab" / "analysis" / "layout.py").body
                 if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NAMES")    # fmt: skip
    declared = {letter for one in code().strings if re.fullmatch(r"[a-z]( [a-z])+", one) for letter in one.split()}
    reached = {letter for site in shipped().sites() for letter in site.axes}
    real = declared | reached
    assert len(declared) > 8 and real <= said, f"docs/glossary.md lacks: {', '.join(sorted(real - said))}"
    assert said == set(ast.literal_eval(names)), "tables of analysis name other axes than the glossary"
    unused = [letter for letter in said if letter not in real and letter not in code().strings]
    assert not unused, f"no site and no record has: {', '.join(unused)}"


# ------------------------------------------------------------------------------------------------------ public classes

# What the name of a class shortens or says of what has it -> the word of the glossary.
STANDS_FOR = {"select": "selection", "stat": "statistic", "distance": "set distance", "guarded": "guard"}
# Words of every day: the first line of the class says all that there is to know.
EVERYDAY = {"memory", "point", "tally", "work", "net"}


def nouns(name: str) -> set[str]:
    """The words in the name of a class, in the singular, and neighbours together: `FeatureBank` -> feature, bank, feature bank."""
    parts = [part.removesuffix("s") for part in re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name).lower().split()]
    return {*parts, *map(" ".join, pairwise(parts))}


def bases(trees: list[ast.Module]) -> dict[str, set[str]]:
    """Class -> the names of the classes that it builds on, by class."""
    found: dict[str, set[str]] = {}
    for node in (node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)):
        found.setdefault(node.name, set()).update(ast.unparse(base).split("[")[0].rpartition(".")[2] for base in node.bases)
    return found


def line_of(name: str, known: dict[str, set[str]]) -> set[str]:
    """A class and all that it builds on."""
    return {name}.union(*(line_of(base, known) for base in known.get(name, ()) if base != name))


def unexplained(name: str, known: dict[str, set[str]], explained: set[str]) -> bool:
    """Whether no noun in the name of a class or of one that it builds on is explained.

    An error says itself what it means, and an edit is what the glossary says of edits.
    """
    line = line_of(name, known)
    if any(one == "Edit" or one.endswith(("Error", "Exception", "Warning")) for one in line):
        return False
    said = {STANDS_FOR.get(noun, noun) for one in line if one in known for noun in nouns(one)}
    return not said & (explained | EVERYDAY)


def exported(tree: ast.Module) -> set[str]:
    """The names that a package gives: what it imports or looks up when asked."""
    inside = {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
    tables = [node.value for node in assigned if ast.unparse(node.targets[0]) in ("_FACE", "_HOME")]
    looked = {node.value for table in tables for node in ast.walk(table) if isinstance(node, ast.Constant)}
    return inside | looked


def test_public_classes_are_called_by_words_of_the_glossary() -> None:
    known = bases([parse(path) for path in sources(*PACKAGES)])
    explained = {word.removesuffix("s") for word in words(PAGE)}
    homes = {home: exported(parse(ROOT / home / "__init__.py")) & set(known) for home in PUBLIC}
    assert all(homes.values()), "the check does not see what a package gives"
    wrong = [f"{home}: {name}" for home, names in homes.items() for name in sorted(names) if unexplained(name, known, explained)]
    assert not wrong, f"docs/glossary.md has no word for: {', '.join(wrong)}"


def test_the_check_of_classes_sees() -> None:
    known = bases([ast.parse("class Cell: ...\nclass RunCell(Part): ...\nclass Gadget(Widget): ...\nclass Widget: ...\n"
                             "class Tile(RunCell): ...\nclass GadgetError(ValueError): ...\nclass Zero(Edit): ...")])
    assert [name for name in known if unexplained(name, known, {"cell"})] == ["Gadget", "Widget"]


def test_glossary_explains_the_words_of_the_design() -> None:
    said = "pipeline stage variant component site clock edit record ledger study cell sample node request".split()
    missing = [word for word in said if word not in words(PAGE)]
    assert not missing, f"docs/glossary.md says nothing about: {', '.join(missing)}"


def doubles(page: str) -> list[str]:
    """Words, or meanings, that stand twice in one section of a page of tables."""
    found = []
    for section in re.split(r"^## ", page, flags=re.MULTILINE):
        table = re.findall(r"^\| (.+?) \| (.+) \|$", section, flags=re.MULTILINE)
        for said in ([word for column, _ in table for word in column.split(", ")], [meaning for _, meaning in table]):
            found += sorted({one for one in said if said.count(one) > 1})
    return found


def test_glossary_explains_no_word_twice() -> None:
    assert not doubles(PAGE)
    assert doubles("## Words\n| grid | rows |\n| grid, axis | cells |\n| watch | eyes |\n| guard | eyes |\n") == ["grid", "eyes"]
    assert not doubles("## Words\n| text | a stage |\n## Components\n| text | the prompt |\n")
