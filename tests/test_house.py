"""The rules of the house, read from the source with `ast`: floors, doors, docstrings, and what a file never holds."""

from __future__ import annotations

import ast
import configparser
import fnmatch
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("wanlab", "metrics")

# Floor n imports only floors below n; the lazy face and `python -m wanlab` stand above all.
FLOORS = {
    "core": 0,
    "nn": 1, "diffusion": 1, "graph": 1, "data": 1, "plots": 1,
    "stages": 2, "analysis": 2,
    "pipelines": 3,
    "training": 4, "measure": 4,
    "runs": 5,
    "cli": 6,
    "__init__": 7, "__main__": 7,
}  # fmt: skip
# One permitted step sideways: training judges what it trained through the door to the metrics.
SIDEWAYS = {("training", "measure")}
HEAVY = ("torchvision", "lpips", "diffusers", "transformers", "pandas", "matplotlib")


def sources(*roots: str) -> list[Path]:
    """Python files below the given folders, sorted."""
    return sorted(path for root in roots for path in (ROOT / root).rglob("*.py"))


def name(path: Path) -> str:
    """Path as a reader writes it."""
    return path.relative_to(ROOT).as_posix()


@functools.cache
def parse(path: Path) -> ast.Module:
    """Syntax tree of one file."""
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def package_of(path: Path) -> list[str]:
    """Dotted package that relative imports of a file start from."""
    return list(path.relative_to(ROOT).with_suffix("").parts[:-1])


def resolve(node: ast.ImportFrom, package: list[str]) -> list[str]:
    """Absolute dotted names that a from-import can bind."""
    base = package[: len(package) - node.level + 1] if node.level else []
    stem = ".".join([*base, *(node.module.split(".") if node.module else [])])
    return [f"{stem}.{alias.name}" for alias in node.names]


def imports(tree: ast.AST, package: list[str]) -> Iterator[tuple[int, str]]:
    """(line, absolute dotted name) of every import at any depth, `import_module("...")` and `__import__` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, target) for target in resolve(node, package))
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def room(dotted: str) -> str | None:
    """The room of the house (`core`, `nn`, ...) that a dotted name lies in; `__init__` for the face; None outside."""
    parts = dotted.split(".")
    if parts[0] != "wanlab":
        return None
    return parts[1] if len(parts) > 1 and parts[1] in FLOORS else "__init__"


def climbs(tree: ast.AST, package: list[str], here: str) -> list[str]:
    """Imports in a file that do not go down, as `line: target`."""
    found = []
    for line, target in imports(tree, package):
        there = room(target)
        if there is None or there == here or (here, there) in SIDEWAYS:
            continue
        if FLOORS[there] >= FLOORS[here]:
            found.append(f"{line}: floor {FLOORS[here]} ({here}) imports floor {FLOORS[there]} ({target})")
    return found


def test_every_module_has_a_floor() -> None:
    rooms = {path.stem if path.parent.name == "wanlab" else path.relative_to(ROOT / "wanlab").parts[0]
             for path in sources("wanlab")}  # fmt: skip
    assert rooms <= set(FLOORS), f"not in the house: {sorted(rooms - set(FLOORS))}"


def test_imports_only_go_down() -> None:
    wrong = []
    for path in sources("wanlab"):
        parts = path.relative_to(ROOT / "wanlab").parts
        here = parts[0] if len(parts) > 1 else path.stem
        wrong += [f"{name(path)}:{found}" for found in climbs(parse(path), package_of(path), here)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from ..stages import text", 1),
        ("def f():\n    import wanlab.runs.store", 1),
        ("from wanlab import pipelines", 1),
        ("from ..diffusion import sampler", 1),
        ("import importlib\nimportlib.import_module('wanlab.cli')", 1),
        ("from ..core import site\nfrom .attention import attend\nimport torch", 0),
    ],
)
def test_the_floor_check_sees_every_form_of_import(source: str, expected: int) -> None:
    assert len(climbs(ast.parse(source), ["wanlab", "nn"], "nn")) == expected


def test_metrics_knows_nothing_of_wanlab_and_imports_itself_relatively() -> None:
    wrong = []
    for path in sources("metrics"):
        for node in ast.walk(parse(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            wrong += [f"{name(path)}:{node.lineno}: {n}" for n in names if n.split(".")[0] in PACKAGES]
    assert not wrong, "\n".join(wrong)


def test_measure_is_the_only_door_to_metrics() -> None:
    wrong = [
        f"{name(path)}:{line}: {target}"
        for path in sources("wanlab")
        if path != ROOT / "wanlab" / "measure" / "door.py"
        for line, target in imports(parse(path), package_of(path))
        if target.split(".")[0] == "metrics"
    ]
    assert not wrong, "\n".join(wrong)


def test_heavy_packages_are_imported_where_they_are_used() -> None:
    wrong = []
    for path in sources("wanlab"):
        outer = [node for node in parse(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        for line, target in imports(ast.Module(body=outer, type_ignores=[]), package_of(path)):
            if target.split(".")[0] in HEAVY:
                wrong.append(f"{name(path)}:{line}: {target} at the top of the module")
    assert not wrong, "\n".join(wrong)


def test_importing_wanlab_is_light_and_changes_nothing() -> None:
    code = f"""
import random, sys, warnings, logging, os
import numpy, torch
before = (torch.initial_seed(), torch.get_default_dtype(), list(warnings.filters), dict(os.environ),
          list(logging.root.handlers), random.getstate(), torch.get_num_threads())
import wanlab
after = (torch.initial_seed(), torch.get_default_dtype(), list(warnings.filters), dict(os.environ),
         list(logging.root.handlers), random.getstate(), torch.get_num_threads())
assert before == after, "importing wanlab changed the process"
loaded = [m for m in {HEAVY!r} if m in sys.modules]
assert not loaded, f"import wanlab also imported {{loaded}}"
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


def test_files_are_named_by_their_noun_and_short() -> None:
    wrong = []
    for path in [*sources("wanlab", "metrics", "tests", "benchmarks"), ROOT / "dev.py"]:
        lines = len(path.read_text(encoding="utf-8").splitlines())
        if path.stem in ("utils", "util", "helpers", "helper", "common", "misc"):
            wrong.append(f"{name(path)}: name it by what it holds")
        if lines > 400:
            wrong.append(f"{name(path)}: {lines} lines, at most 400")
    assert not wrong, "\n".join(wrong)


# What runs code that stands in data, by how it is called; `.` before a name: of any object.
RUNS_CODE = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path", "torch.jit.load",
    "pickle.load", "pickle.loads", "pickle.Unpickler", "marshal.loads", "marshal.load", "shelve.open", "joblib.load", "dill.load",
    ".read_pickle", "yaml.load", "yaml.unsafe_load", ".extractall",
}  # fmt: skip


def runs_code(called: str, given: dict[str, str]) -> str | None:
    """Why a call can run code that stands in data, or None."""
    if called in RUNS_CODE or f".{called.rpartition('.')[2]}" in RUNS_CODE:
        return f"{called} can run code from a file"
    if called == "torch.load" and given.get("weights_only") != "True":
        return "torch.load without weights_only=True"
    if called in ("YAML", "ruamel.yaml.YAML") and given.get("typ") != "'safe'":
        return "YAML that is not read as plain data"
    if wrong := [f"{k}=True" for k in ("allow_pickle", "shell", "trust_remote_code", "use_pickle") if given.get(k) == "True"]:
        return f"{called} with {wrong[0]}"
    return None


def dangers(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """(line, reason) of what runs foreign code, of swallowed exceptions and placeholders."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if reason := runs_code(called, {keyword.arg or "": ast.unparse(keyword.value) for keyword in node.keywords}):
                yield node.lineno, reason
            if re.fullmatch(r"subprocess\.\w+", called) and node.args and isinstance(node.args[0], ast.Constant | ast.JoinedStr):
                yield node.lineno, "a program is started by a list of words, never by a line for a shell"
            if called.endswith("suppress") and {"Exception", "BaseException"} & {ast.unparse(a) for a in node.args}:
                yield node.lineno, "suppresses every exception"
        if isinstance(node, ast.ExceptHandler):
            first = node.body[0]
            empty = isinstance(first, ast.Pass) or (isinstance(first, ast.Expr) and ast.unparse(first) == "...")
            if len(node.body) == 1 and empty:
                yield node.lineno, "swallows an exception"
        if isinstance(node, ast.Raise) and node.exc and "NotImplementedError" in ast.unparse(node.exc):
            yield node.lineno, "a placeholder"


# The one program that may be opened: by its hash, which the caller gives.
PINNED = "metrics/torchscript.py", "torch.jit.load can run code from a file"


def test_no_pickle_no_swallowed_exception_no_placeholder() -> None:
    found = [(name(p), line, reason) for p in sources(*PACKAGES) for line, reason in dangers(parse(p))]
    wrong = [f"{file}:{line}: {reason}" for file, line, reason in found if (file, reason) != PINNED]
    assert len(found) - len(wrong) <= 1
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    ["import torch\ntorch.load(p)", "import pickle\npickle.load(f)", "numpy.load(f, allow_pickle=True)",
     "try:\n    f()\nexcept ValueError:\n    pass", "raise NotImplementedError('later')",
     "with contextlib.suppress(Exception):\n    f()", "eval(text)", "exec(code, names)", "os.system(line)", "frame.read_pickle(p)",
     "subprocess.run(line, shell=True)", "subprocess.run(f'git {name}')", "yaml.load(text)", "YAML().load(text)",
     "YAML(typ='unsafe')", "AutoModel.from_pretrained(p, trust_remote_code=True)", "archive.extractall(p)", "torch.jit.load(p)"],
)  # fmt: skip
def test_the_danger_check_sees(source: str) -> None:
    assert list(dangers(ast.parse(source)))


def test_no_program_is_started_through_a_shell_anywhere() -> None:
    files = [*sources("wanlab", "metrics", "benchmarks", "tests", "docs"), ROOT / "dev.py"]
    wrong = [f"{name(p)}:{line}" for p in files for line, reason in dangers(parse(p)) if "shell" in reason or "os.system" in reason]
    assert not wrong, "\n".join(wrong)


def test_what_the_templates_leave_unescaped_is_ours() -> None:
    unescaped = re.compile(r"\{\{\s*(\w+)\s*\|\s*safe|"
                           r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval|Markup)\b\s*[(=]")
    files = [path for root in PACKAGES for kind in ("*.html", "*.js", "*.py") for path in (ROOT / root).rglob(kind)]
    found = {match.group(1) or match.group(0) for path in files for match in unescaped.finditer(path.read_text(encoding="utf-8"))
             if ".eval(" not in path.read_text(encoding="utf-8")[match.start() - 1 : match.end()]}  # fmt: skip
    assert found <= {"style", "script"}, f"goes into a page without being escaped: {sorted(found)}"


def test_no_mark_of_unfinished_work_and_no_path_of_one_machine() -> None:
    marks = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b")
    machine = re.compile(r"(?<![\w.$}])/(home|root|work|opt|mnt|tmp|Users)/")
    texts = [*sources("wanlab", "metrics", "benchmarks"), *(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")]
    texts += [*(ROOT / "experiments").rglob("*.yaml"), *(ROOT / "notebooks").glob("*.ipynb")]
    wrong = []
    for path in texts:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if marks.search(line) or machine.search(line):
                wrong.append(f"{name(path)}:{number}: {line.strip()[:100]}")
    assert not wrong, "\n".join(wrong)


def test_map_names_every_module_and_nothing_else() -> None:
    text = (ROOT / "docs" / "map.md").read_text(encoding="utf-8")
    lines = re.findall(r"^- `([\w./-]+)`", text, flags=re.MULTILINE)
    named = set(lines)
    assert len(lines) == len(named), f"docs/map.md names twice: {', '.join(sorted({x for x in lines if lines.count(x) > 1}))}"
    gone = sorted(entry for entry in named if not (ROOT / entry).exists())
    assert not gone, f"docs/map.md names what does not exist: {', '.join(gone)}"
    modules = {name(path) for path in sources(*PACKAGES) if path.name != "__init__.py"}
    assert not modules - named, f"docs/map.md lacks: {', '.join(sorted(modules - named))}"


def test_decisions_are_numbered_and_complete() -> None:
    files = sorted((ROOT / "docs" / "decisions").glob("*.md"))
    assert [int(path.name[:4]) for path in files] == list(range(1, len(files) + 1))
    for path in files:
        text = path.read_text(encoding="utf-8")
        assert all(f"## {part}" in text for part in ("Context", "Decision", "Consequences")), name(path)


def settings() -> configparser.ConfigParser:
    """setup.cfg, read as setuptools does."""
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_every_folder_with_code_is_a_package_and_every_data_file_ships() -> None:
    data = settings()["options.package_data"]
    wrong = []
    for root in PACKAGES:
        shipped = {path for glob in data[root].split() for path in (ROOT / root).glob(glob)}
        for path in sorted((ROOT / root).rglob("*")):
            if "__pycache__" in path.parts or path.is_dir():
                continue
            package = (path.parent / "__init__.py").is_file()
            if path.suffix == ".py" and not package:
                wrong.append(f"{name(path)}: its folder lacks __init__.py, so it would not be installed")
            everywhere = package and any(fnmatch.fnmatch(path.name, glob) for glob in data["*"].split())
            if path.suffix != ".py" and not everywhere and path not in shipped:
                wrong.append(f"{name(path)}: no glob of package_data in setup.cfg matches it")
    assert not wrong, "\n".join(wrong)


def test_the_pinned_set_satisfies_the_lower_bounds() -> None:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    pins = {canonicalize_name(package): version for package, version in pins.items()}
    config = settings()
    extras = config["options.extras_require"]
    wanted = config["options"]["install_requires"].splitlines()
    wanted += [line for key in ("dev", "notebook", "bench", "ray") for line in extras[key].splitlines()]
    for requirement in (Requirement(line) for line in wanted if line.strip() and not line.startswith("#")):
        pinned = pins.get(canonicalize_name(requirement.name))
        assert pinned, f"constraints.txt does not pin {requirement.name}"
        assert requirement.specifier.contains(pinned), f"{requirement} but constraints.txt has {pinned}"
