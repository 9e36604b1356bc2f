"""Pages of the site that no file in docs/ holds: the README as its start, the command line, the public face from its docstrings.

A hook of mkdocs. The documents are written to be read on a code host: links from them to files of the repository lead to copies
in the site, and what Python-Markdown reads differently (lists after a line of text, pipes in code in tables) is put right.
"""

from __future__ import annotations

import posixpath
import re
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # for the command line, which is imported; the rest is read
LINK = re.compile(r"(\]\()([^)#\s:]+)((?:#[^)]*)?\))")
OUTER = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}

# page -> what it opens with, and the modules or names that it shows
API = {
    "The face": ("What `import wanlab` gives.", ["wanlab.pipelines.load.load", "wanlab.core.trace.trace",
                                                 "wanlab.analysis.explore.explore", "wanlab.data.procedural.World"]),
    "Pipelines": ("What every pipeline can do, and the two families.", [
        "wanlab.pipelines.base", "wanlab.pipelines.cascade", "wanlab.pipelines.wan21", "wanlab.pipelines.wan_load",
        "wanlab.pipelines.published", "wanlab.pipelines.request", "wanlab.pipelines.tiles", "wanlab.pipelines.weights"]),
    "Selections and edits": ("Which sites, which part of them, when; and what is done there.", [
        "wanlab.core.select", "wanlab.core.edit", "wanlab.core.values", "wanlab.core.frames", "wanlab.core.mask",
        "wanlab.core.source"]),
    "Sites and traces": ("The places of a model, and the context in which edits and captures are in force.", [
        "wanlab.core.site", "wanlab.core.trace", "wanlab.core.clock", "wanlab.core.ledger", "wanlab.core.adapt",
        "wanlab.core.place", "wanlab.core.gradient", "wanlab.core.checkpoint"]),
    "Records": ("What a run kept.", [
        "wanlab.core.capture", "wanlab.core.record", "wanlab.core.entry", "wanlab.core.stat", "wanlab.core.moments",
        "wanlab.core.quantiles", "wanlab.core.top", "wanlab.core.budget"]),
    "Analysis": ("Questions to any pipeline.", ["wanlab/analysis"]),
    "Metrics": ("Numbers about videos, importable by themselves as `metrics`.", ["metrics"]),
    "Measures": ("The short names of metrics, and what they stand for.", ["wanlab.measure.naming", "wanlab.measure.kinds"]),
    "Study files": ("Every setting of a study, as `wanlab schema` tells editors.", ["wanlab.runs.spec"]),
    "Studies in code": ("Planning, running and reporting from Python.", [
        "wanlab.runs.study", "wanlab.runs.reading", "wanlab.runs.engine"]),
}  # fmt: skip


def slug(title: str) -> str:
    """A page's file name."""
    return f"api/{title.lower().replace(' ', '-')}.md"


def modules(name: str) -> list[str]:
    """A name as it is, or the public modules of a package."""
    folder = ROOT / name
    if not folder.is_dir():
        return [name]
    dotted = name.replace("/", ".")
    return [f"{dotted}.{path.stem}" for path in sorted(folder.glob("*.py")) if not path.stem.startswith("_")]


def api(title: str) -> str:
    """The Markdown of one page of the reference."""
    opening, names = API[title]
    shown = [one for name in names for one in modules(name)]
    return f"# {title}\n\n{opening}\n\n" + "\n".join(f"::: {name}\n" for name in shown)


def command_line() -> str:
    """The Markdown of the page of commands, from the program's own words."""
    import typer.main

    group: Any = typer.main.get_command(import_module("wanlab.cli").app)
    said = ["# Command line", plain(group.help), "`wanlab COMMAND --help` says the same in a terminal."]
    for name, command in group.commands.items():
        told = [parameter for parameter in command.params if not parameter.hidden]
        places = [written(one) for one in told if one.param_type_name == "argument"]
        said += [f"## wanlab {name}", plain(command.help), f"```sh\n{' '.join(['wanlab', name, *places, '[OPTIONS]'])}\n```"]
        said += ["\n".join(["| | | default |", "|---|---|---|", *map(row, told)])]
    return "\n\n".join(said) + "\n"


def written(parameter: Any) -> str:
    """How an argument or option is typed: `STUDY`, `[PIPELINE]`, `--steps INTEGER`."""
    if parameter.param_type_name == "argument":
        name = parameter.metavar or parameter.name.upper()
        return name if parameter.required else f"[{name.strip('[].')}]"
    kind = str(parameter.type_descriptor.annotation)
    kinds = {"int": "INTEGER", "float": "NUMBER", "Path": "PATH", "str": "TEXT"}
    value = parameter.metavar or next((word for key, word in kinds.items() if key in kind), "")
    return ", ".join(parameter.opts) + ("" if parameter.is_flag else f" {value}")


def row(parameter: Any) -> str:
    """One argument or option as a row of a table: how it is typed, what it does, what it is without."""
    default = parameter.default
    without = "" if default is None or default is False or default == "" or callable(default) else f"`{default}`"
    texts = (f"`{written(parameter)}`", plain(parameter.help), without)
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"


def plain(text: str | None) -> str:
    """Help as Markdown: lines of one paragraph joined, examples as code, globs and patterns too."""
    parts = re.split(r"\n\s*\n", (text or "").strip("\n").replace("\\[", "["))
    return "\n\n".join(example(part) if "\b" in part else globs(" ".join(part.split())) for part in parts)


def example(part: str) -> str:
    """Lines that stay as they are: a sentence before them, if there is one, and commands."""
    lines = [line.strip() for line in part.replace("\b", "").splitlines() if line.strip()]
    commands = [line for line in lines if line.startswith("wanlab ")]
    said = [line for line in lines if line not in commands]
    return "\n".join([*said, *([""] if said else []), "```sh", *commands, "```"])


def globs(line: str) -> str:
    """A line in which whatever has a star stands as code."""
    return re.sub(r"(?<![`\w])([\w.]*\*[\w.*]*)(?!`)", r"`\1`", line)


def on_config(config: Any) -> Any:
    """Put the pages of the reference and the decisions where mkdocs.yml leaves room for them."""
    decisions = [f"decisions/{path.name}" for path in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))]
    room = {"{api}": [{title: slug(title)} for title in API], "{decisions}": decisions}

    def filled(items: list[Any]) -> list[Any]:
        found: list[Any] = []
        for item in items:
            if isinstance(item, str) and item in room:
                found += room[item]
            elif isinstance(item, dict):
                found.append({title: filled(below) if isinstance(below, list) else below for title, below in item.items()})
            else:
                found.append(item)
        return found

    config.nav = filled(config.nav)
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add what is made here, and copies of the repository's files that a document links to."""
    decisions = (ROOT / "docs" / "decisions").glob("[0-9]*.md")
    titles = {path: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for path in decisions}
    listing = "\n".join(f"- [{titles[path]}]({path.name})" for path in sorted(titles))
    made = {
        "decisions/index.md": f"# Decisions\n\nWhy things are as they are, in the order in which it was decided.\n\n{listing}\n",
        "command-line.md": command_line(),
        **{slug(title): api(title) for title in API},
        **{page: (ROOT / name).read_text(encoding="utf-8") for name, page in OUTER.items()},
    }
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    for target in sorted({one for page in documents() for one in linked(page) if one.exists() and place(one).startswith("files/")}):
        inside = sorted(path for path in target.iterdir() if path.is_file()) if target.is_dir() else []
        if target.is_dir():
            text = f"# {target.relative_to(ROOT)}\n\n" + "\n".join(f"- [{path.name}]({path.name})" for path in inside) + "\n"
            files.append(File.generated(config, place(target), content=text, inclusion=InclusionLevel.NOT_IN_NAV))
        for path in inside or [target]:
            if files.get_file_from_path(place(path)) is None:
                files.append(File.generated(config, place(path), abs_src_path=str(path), inclusion=InclusionLevel.NOT_IN_NAV))
    return files


def documents() -> list[Path]:
    """All Markdown that becomes a page."""
    return [*(ROOT / name for name in OUTER), *(ROOT / "docs").rglob("*.md")]


def linked(page: Path) -> list[Path]:
    """What the links of a document lead to."""
    return [(page.parent / match[2]).resolve() for match in LINK.finditer(page.read_text(encoding="utf-8"))]


def place(target: Path) -> str:
    """Where a file of the repository stands in the site."""
    inner = target.relative_to(ROOT).as_posix()
    if inner in OUTER:
        return OUTER[inner]
    if inner == "docs/decisions":
        return "decisions/index.md"
    if inner.startswith("docs/"):
        return inner.removeprefix("docs/")
    return f"files/{inner}/index.md" if target.is_dir() else f"files/{inner}"


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links and Markdown as mkdocs wants them."""
    uri = page.file.src_uri
    sources = {inner: name for name, inner in OUTER.items()}
    source = ROOT / sources[uri] if uri in sources else ROOT / "docs" / uri
    if source.is_file():
        markdown = LINK.sub(lambda match: match[1] + relative(source, match[2], uri) + match[3], markdown)
    return "\n".join(readable(markdown.splitlines())) + "\n"


def relative(source: Path, target: str, uri: str) -> str:
    """A link of a document, as it has to stand in the site."""
    path = (source.parent / target).resolve()
    if not path.is_relative_to(ROOT) or not path.exists():
        return target
    return posixpath.relpath(place(path), posixpath.dirname(uri) or ".")


def readable(lines: list[str]) -> list[str]:
    """Lines with what a code host forgives and Python-Markdown does not: lists without a blank line before them, pipes in code."""
    found: list[str] = []
    fenced = False
    for line in lines:
        fenced ^= line.lstrip().startswith("```")
        item = re.match(r"\s*([-*]|\d+\.) ", line)
        last = found[-1] if found else ""
        if item and not fenced and last.strip() and not re.match(r"\s*([-*]|\d+\.) ", last) and not last.startswith((" ", "\t")):
            found.append("")
        if line.startswith("|") and not fenced:
            line = re.sub(r"`[^`]*`", lambda code: code[0].replace("\\|", "|"), line)
        found.append(line)
    return found
