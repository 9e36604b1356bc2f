"""What the documents show is true: code compiles and calls what exists, YAML is a study, commands and their options exist."""

from __future__ import annotations

import ast
import inspect
import io
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ruamel.yaml import YAML

import wanlab
from wanlab.runs.reading import parse_study

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"python", "yaml", "sh", ""}
BASE = {"name": "shown", "pipeline": "tiny", "data": {"kind": "procedural", "n": 8}, "cells": {"baseline": None},
        "metrics": ["flicker", "fvd", "lpips", "warp_error"]}  # fmt: skip


def blocks(page: Path) -> Iterator[tuple[str, str, int]]:
    """(language, text, line) of each fenced block."""
    text = page.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        yield match[1], match[2], text[: match.start(2)].count("\n") + 1


def written(*languages: str) -> list[Any]:
    """The blocks in these languages as parameters of a test, called by where they stand."""
    found = []
    for page in PAGES:
        for language, text, line in blocks(page):
            if language in languages:
                found.append(pytest.param(text, id=f"{page.relative_to(ROOT)}:{line}"))
    return found


def commands() -> list[Any]:
    """Every line that starts wanlab: in fenced blocks of the shell, in indented ones, in the comments of study files, and in what
    the command line says of itself."""
    found = []
    for page in [*PAGES, *sorted((ROOT / "experiments").rglob("*.yaml")), ROOT / "wanlab" / "cli.py"]:
        fenced = False
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
            fenced ^= line.startswith("```")
            match = re.match(r"(#\s+| {2,}|)(wanlab [a-z]+( .*)?$)", line)
            if match and (fenced or match[1]):
                found.append(pytest.param(match[2], id=f"{page.relative_to(ROOT)}:{number}"))
    return found


def test_every_page_stands_in_the_navigation_of_the_site() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    names = [page.name for page in (ROOT / "docs").glob("*.md")]
    missing = [name for name in names if not re.search(rf" {re.escape(name)}$", text, re.MULTILINE)]
    assert not missing, f"mkdocs.yml does not name {', '.join(missing)}"


def test_every_block_says_its_language() -> None:
    strange = [f"{page.relative_to(ROOT)}:{line}: {language}" for page in PAGES for language, _, line in blocks(page)
               if language not in LANGUAGES]
    assert not strange, "\n".join(strange)


@pytest.mark.parametrize("line", commands())
def test_a_command_and_its_options_exist(line: str) -> None:
    import typer.main

    from wanlab.cli import app

    words = shlex.split(line.partition(" #")[0].partition("   ")[0])
    files = [word for word in words if word.startswith("experiments/") or re.fullmatch(r".+/.+\.yaml", word)]
    gone = [word for word in files if not (ROOT / word).is_file()]
    assert not gone, f"does not exist: {', '.join(gone)}"
    command = typer.main.get_command(app).commands[words[1]]  # type: ignore[attr-defined]
    known = {name: option for option in command.params if option.param_type_name == "option" for name in option.opts}
    rest, places = words[2:], 0
    while rest:
        word = rest.pop(0)
        if word.startswith("-") and not re.fullmatch(r"-\d.*", word):
            name, equals, _ = word.partition("=")
            assert name in known, f"wanlab {words[1]} has no {name}; it has {', '.join(sorted(known))}"
            if not known[name].is_flag and not equals:
                assert rest, f"{name} has no value"
                rest.pop(0)
        elif word not in ("|", "&&", ";", "..."):
            places += 1
    taken = [one for one in command.params if one.param_type_name == "argument"]
    enough = places <= len(taken) or any(one.nargs == -1 for one in taken)
    assert enough, f"wanlab {words[1]} takes {len(taken)} words, not {places}"


@pytest.mark.parametrize("text", written("yaml"))
def test_yaml_is_a_study_or_a_part_of_one(text: str) -> None:
    yaml = YAML(typ="safe", pure=True)
    said = yaml.load(text)
    if "base" in said:                                                  # a part of a training file: settings of a recipe
        from wanlab.data.reel import Videos
        from wanlab.training.diffusion import Recipe

        Recipe(**said["base"])
        Videos.of(said["base"]["videos"])
        return
    whole = io.StringIO()
    yaml.dump({**BASE, **said, "cells": {**BASE["cells"], **(said.get("cells") or {})}}, whole)  # type: ignore[dict-item]
    study, _ = parse_study(whole.getvalue())
    assert study.cells


@pytest.mark.parametrize("text", written("python"))
def test_code_compiles_and_calls_what_exists(text: str) -> None:
    tree = ast.parse(text)
    names: dict[str, Any] = {"wanlab": wanlab}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.asname or alias.name.split(".")[0]: import_module(alias.name) for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            module = import_module(node.module or "")
            for alias in node.names:
                found = getattr(module, alias.name, None)
                names[alias.asname or alias.name] = import_module(f"{node.module}.{alias.name}") if found is None else found
    wrong = [said for node in ast.walk(tree) if isinstance(node, ast.Call | ast.Attribute) for said in untrue(node, names)]
    assert not wrong, "\n".join(wrong)


def meant(node: ast.expr, names: dict[str, Any]) -> Any:
    """What an expression of names and dots stands for, as far as the imports of the block tell; None otherwise."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(owner := meant(node.value, names), ModuleType):
        return getattr(owner, node.attr, None)
    return None


def untrue(node: ast.Call | ast.Attribute, names: dict[str, Any]) -> Iterator[str]:
    """What a block says of a module or function that is not so."""
    if isinstance(node, ast.Attribute):
        owner = meant(node.value, names)
        if isinstance(owner, ModuleType) and not hasattr(owner, node.attr):
            yield f"line {node.lineno}: {owner.__name__} has no {node.attr}"
        return
    called = meant(node.func, names)
    if not callable(called) or any(keyword.arg is None for keyword in node.keywords):
        return
    try:
        signature = inspect.signature(called)
    except ValueError:
        return
    if any(isinstance(one, ast.Starred) or getattr(one, "value", None) is ... for one in node.args):
        return
    try:
        signature.bind_partial(*node.args, **{str(keyword.arg): None for keyword in node.keywords})
    except TypeError as error:
        yield f"line {node.lineno}: {ast.unparse(node.func)}: {error}"
