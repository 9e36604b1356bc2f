"""Public things say what they are: modules, classes, functions, and the methods of classes."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.test_house import PACKAGES, name, parse, sources


def test_public_things_have_docstrings() -> None:
    wrong = []
    for path in sources(*PACKAGES):
        tree = parse(path)
        if tree.body and not ast.get_docstring(tree):
            wrong.append(f"{name(path)}: the module")
        for node in tree.body:
            kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
            if isinstance(node, kinds) and not node.name.startswith("_") and not ast.get_docstring(node):
                wrong.append(f"{name(path)}:{node.lineno}: {node.name}")
    assert not wrong, "without a docstring:\n" + "\n".join(wrong)


def methods(one: ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """The public ones."""
    yield from (node for node in one.body if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"))


def undescribed(trees: dict[str, ast.Module]) -> list[str]:
    """Public methods of public classes that say nothing, and override no method that does of a class of these files. What a module
    of wanlab computes (`forward`) its class may say."""
    classes = [(file, node) for file, tree in trees.items() for node in tree.body if isinstance(node, ast.ClassDef)]
    said = {(one.name, method.name) for _, one in classes for method in methods(one) if ast.get_docstring(method)}
    bases: dict[str, set[str]] = {}
    for _, one in classes:
        bases.setdefault(one.name, set()).update(base.id for base in map(plain, one.bases) if isinstance(base, ast.Name))

    def told(one: str, method: str, seen: frozenset[str] = frozenset()) -> bool:
        further = bases.get(one, set()) - seen
        return any((base, method) in said or told(base, method, seen | further) for base in further)

    return [f"{file}:{method.lineno}: {one.name}.{method.name}" for file, one in classes if not one.name.startswith("_")
            for method in methods(one) if not ast.get_docstring(method) and not told(one.name, method.name)
            and not (method.name == "forward" and file.startswith("wanlab/"))]  # fmt: skip


def plain(base: ast.expr) -> ast.expr:
    """`Base` of `Base[int]`."""
    return base.value if isinstance(base, ast.Subscript) else base


def test_public_methods_have_docstrings_of_their_own_or_of_what_they_override() -> None:
    wrong = undescribed({name(path): parse(path) for path in sources(*PACKAGES)})
    assert not wrong, "without a docstring:\n" + "\n".join(wrong)


def test_the_check_of_methods_sees() -> None:
    shown = """
class A:
    def f(self):
        "It says."
    def g(self): ...
class B(A):
    def f(self): ...
    def g(self): ...
    def _h(self): ...
class _C:
    def g(self): ...
"""
    assert undescribed({"a.py": ast.parse(shown)}) == ["a.py:5: A.g", "a.py:8: B.g"]
