"""What the pages of the reference show says its shapes, its errors and where it comes from: read from docstrings with `ast`."""

from __future__ import annotations

import ast
import builtins
import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.test_house import PACKAGES, ROOT, name, parse, sources

Function = ast.FunctionDef | ast.AsyncFunctionDef


def table(path: Path, called: str) -> object:
    """A dictionary that a module writes down."""
    for node in parse(path).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(target, ast.Name) and target.id == called and isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            return ast.literal_eval(node.value)
    raise LookupError(f"{name(path)} has no {called}")


@functools.cache
def shown() -> dict[Path, set[str]]:
    """Module -> the names of it that the reference shows; none: all that are public."""
    pages = table(ROOT / "docs" / "site" / "pages.py", "API")
    found: dict[Path, set[str]] = {}
    for one in (one for _, names in pages.values() for one in names):  # type: ignore[attr-defined]
        path = ROOT / one.replace(".", "/")
        if path.is_dir():
            found |= {module: set() for module in path.glob("*.py") if not module.stem.startswith("_")}
        elif (module := path.with_suffix(".py")).is_file():
            found[module] = set()
        else:
            found.setdefault(path.parent.with_suffix(".py"), set()).add(path.name)
    return found


@dataclass
class Said:
    """A public function or method, and all that is said of it: by itself, its class, and what it overrides."""

    file: str
    node: Function
    owner: ast.ClassDef | None = None
    inherited: list[str] = field(default_factory=list)

    @property
    def words(self) -> str:
        """The docstrings."""
        own = [ast.get_docstring(node) or "" for node in (self.node, self.owner) if node]
        return "\n".join([*own, *self.inherited])

    def __str__(self) -> str:
        return f"{self.file}:{self.node.lineno}: {self.owner.name + '.' if self.owner else ''}{self.node.name}"


def methods(one: ast.ClassDef) -> Iterator[Function]:
    """Those that a reader sees, with what makes one and what calls one."""
    for node in one.body:
        if isinstance(node, Function) and (not node.name.startswith("_") or node.name in ("__init__", "__call__")):
            yield node


def ancestors(one: ast.ClassDef, classes: dict[str, ast.ClassDef], seen: frozenset[str] = frozenset()) -> Iterator[ast.ClassDef]:
    """The classes that a class builds on, as far as these files have them."""
    for base in one.bases:
        called = ast.unparse(base).split("[")[0].rpartition(".")[2]
        if called in classes and called not in seen and called != one.name:
            yield classes[called]
            yield from ancestors(classes[called], classes, seen | {called})


def told(file: str, tree: ast.Module, classes: dict[str, ast.ClassDef], only: set[str]) -> Iterator[Said]:
    """What a module shows."""
    for node in tree.body:
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_") or (only and node.name not in only):
            continue
        if isinstance(node, Function):
            yield Said(file, node)
            continue
        above = list(ancestors(node, classes))
        for method in methods(node):
            same = [ast.get_docstring(other) or "" for base in above for other in methods(base) if other.name == method.name]
            yield Said(file, method, node, same)


@functools.cache
def reference() -> list[Said]:
    """All that the reference shows."""
    classes = {node.name: node for path in sources(*PACKAGES) for node in parse(path).body if isinstance(node, ast.ClassDef)}
    return [one for path, only in shown().items() for one in told(name(path), parse(path), classes, only)]


def of(source: str) -> list[Said]:
    """What a few lines of code show."""
    tree = ast.parse(source)
    return list(told("shown", tree, {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}, set()))


# ------------------------------------------------------------------------------------------------------------- shapes

LETTERS = "[b-df-hjkmnpqsuwlr]"  # the axes of docs/glossary.md; l and r: how many things of some kind
SIZE = rf"(?:{LETTERS}'?(?:-1)?|\d?{LETTERS}|\d+)"
SHAPE = [
    rf"(?<![\w.'])(?:{SIZE}|\.\.\.)(?:,? (?:{SIZE}|\.\.\.))+(?![\w'])",      # b f c h w, (n, d), f-1 2
    rf"[`(]{LETTERS},?(?: \w+)*[`)]",                                       # `b`, (n,), `b classes`
    r"`f(?: \w+)+`", r"\([a-z]+(?:,? (?:\w+|\+|\d))+\)",                     # (query head frame h w)
    r"\b(?:scalars?|axes|rows first|(?:any|same|its|one) shape)\b", r"[a-z]{2,} x [a-z]{2,}",
    r"[Aa]s `[\w.]+`", r"[Aa]rguments (?:of|as) `",                          # told of another function
]  # fmt: skip


def shapeless(one: Said) -> bool:
    """Whether a tensor goes in or comes out and nothing says of what shape."""
    arguments = one.node.args
    annotations = [arg.annotation for arg in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]]
    tensors = [said for said in [*annotations, one.node.returns] if said and re.search(r"\bTensor\b", ast.unparse(said))]
    return bool(tensors) and not any(re.search(pattern, one.words) for pattern in SHAPE)


def test_shapes_of_tensors_are_said() -> None:
    wrong = [str(one) for one in reference() if shapeless(one)]
    assert not wrong, f"{len(wrong)} take or give a tensor and do not say its shape:\n" + "\n".join(wrong)


@pytest.mark.parametrize(("words", "silent"), [
    ("The mean of a thing.", True), ("Luma of a video b f c h w.", False), ("A value `b`.", False), ("Means (n, d).", False),
    ("A float64 scalar.", False), ("From a to b.", True), ("Arguments as `other`'s.", False), ("One for each sample (b).", False)])
def test_the_check_of_shapes_sees(words: str, silent: bool) -> None:
    source = (f'def f(x: Tensor) -> Tensor:\n    "{words}"\n'
              f'class A:\n    "{words}"\n    def g(self) -> Tensor: ...\ndef h(x: int): ...')
    assert [shapeless(one) for one in of(source)] == [silent, silent, False]


# ------------------------------------------------------------------------------------------------------------- errors

def raised(node: ast.AST, caught: frozenset[str] = frozenset()) -> Iterator[str]:
    """What a function raises by itself and does not catch, in the words of its code."""
    for one in ast.iter_child_nodes(node):
        if isinstance(one, Function | ast.ClassDef | ast.Lambda):
            continue
        if isinstance(one, ast.Raise) and one.exc is not None:
            error = ast.unparse(one.exc.func if isinstance(one.exc, ast.Call) else one.exc)
            if error.rpartition(".")[2] not in caught:
                yield error.rpartition(".")[2]
        elif isinstance(one, ast.Try):
            kinds = [leaf for handler in one.handlers if handler.type for leaf in ast.walk(handler.type)]
            yield from raised(ast.Module(one.body, []), caught | {leaf.id for leaf in kinds if isinstance(leaf, ast.Name)})
            yield from raised(ast.Module([*one.handlers, *one.orelse, *one.finalbody], []), caught)
        elif isinstance(one, ast.With):
            yield from (error.lower() for error in raised(one, caught))         # the context may make another error of it
        else:
            yield from raised(one, caught)


ERROR = re.compile(r"\b[A-Z]\w+(?:Error|Warning|Interrupt)\b")


def untold(one: Said) -> list[str]:
    """Errors of its own that a function does not name; of one that another function or a context makes, whether it names any."""
    found = set(raised(one.node))
    return sorted(error for error in found if not (
        re.search(rf"\b{error}\b", one.words) if error[0].isupper() else ERROR.search(one.words)))  # fmt: skip


def test_errors_that_a_function_raises_are_named() -> None:
    wrong = [f"{one}: {', '.join(errors)}" for one in reference() if (errors := untold(one))]
    assert not wrong, f"{len(wrong)} raise what they do not name:\n" + "\n".join(wrong)


def test_the_check_of_errors_sees() -> None:
    assert [untold(one) for one in of('''
def told(x):
    "A number. Raises ValueError for none."
    if x: raise ValueError(x)
def silent(x):
    "A number, or an error."
    for one in x:
        raise core.EditError(x)
def made(x):
    "A number."
    raise document.error(x)
def caught(x):
    "A number."
    try:
        raise ValueError(x)
    except (ValueError, KeyError) as error:
        return error
def within(x):
    "A number; RunError for others."
    with x.whole(): raise ValueError
def inner(x):
    "A number."
    def nested(): raise ValueError
class A:
    "It has b rows. TypeError where it has none."
    def f(self): raise TypeError
class B(A):
    "Another."
    def f(self): raise TypeError
class C(A):
    "Another."
    def f(self): raise KeyError
''')] == [[], ["EditError"], ["error"], [], [], [], [], ["TypeError"], ["KeyError"]]


def test_errors_that_docstrings_name_exist() -> None:
    trees = [parse(path) for path in sources(*PACKAGES)]
    known = {node.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)} | set(dir(builtins))
    known |= {alias.asname or alias.name for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
              for alias in node.names}                                                           # fmt: skip
    wrong = {f"{one}: {error}" for one in reference() for error in ERROR.findall(one.words) if error not in known}
    assert not wrong, "no such error:\n" + "\n".join(sorted(wrong))


# ------------------------------------------------------------------------------------------------------------ sources

# A year of a paper, an equation, a benchmark by its name; or that nobody else has it.
SOURCE = re.compile(r"\b(?:19|20)\d\d\b|\bVBench\b|\bOurs?\b|\bours\b|\bthe article's\b")
# Modules of analysis that run, keep and lay out what others ask; there is nothing to cite.
CARRIERS = {"cells", "contrast", "explore", "features", "layout", "map", "texts"}


def sourceless() -> Iterator[str]:
    """Metrics, losses and methods of analysis of which neither they nor their module says where they come from."""
    for called, home in table(ROOT / "metrics" / "__init__.py", "_HOME").items():  # type: ignore[attr-defined]
        tree = parse(ROOT / "metrics" / f"{home}.py")
        node = next((one for one in tree.body if isinstance(one, Function | ast.ClassDef) and one.name == called), None)
        if node and not called.endswith(("Error", "Warning")) and not cited(tree, node):
            yield f"metrics/{home}.py:{node.lineno}: {called}"
    losses = parse(ROOT / "wanlab" / "training" / "losses.py")
    yield from (f"wanlab/training/losses.py:{one.lineno}: {one.name}" for one in losses.body
                if isinstance(one, Function) and not cited(losses, one))                         # fmt: skip
    for path in sources("wanlab/analysis"):
        tree = parse(path)
        if path.stem not in CARRIERS | {"__init__"} and not cited(tree, *ast.walk(tree)):
            yield name(path)


def cited(tree: ast.Module, *nodes: ast.AST) -> bool:
    """Whether one of these, or the module, says a source."""
    documented = [one for one in (tree, *nodes) if isinstance(one, ast.Module | ast.ClassDef | Function)]
    return any(SOURCE.search(ast.get_docstring(one) or "") for one in documented)


def test_metrics_losses_and_methods_say_where_they_come_from() -> None:
    wrong = list(sourceless())
    assert not wrong, f"{len(wrong)} say no source (paper, equation, or that they are ours):\n" + "\n".join(wrong)
