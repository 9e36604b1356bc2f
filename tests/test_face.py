"""The names of `import wanlab`: each is the thing of its home, resolved when asked for, and a wrong one names the nearest."""

from __future__ import annotations

import pytest

import wanlab
from wanlab import core
from wanlab.data.procedural import World
from wanlab.pipelines.load import load


def test_names_are_the_things_themselves() -> None:
    assert wanlab.load is load and wanlab.World is World and wanlab.trace is core.trace
    for name in ("Identity", "Zero", "Mean", "Noise", "Scale", "Patch", "Bypass", "Capture", "edit_from_dict"):
        assert getattr(wanlab, name) is getattr(core, name)


def test_all_of_them_can_be_imported_at_once() -> None:
    names: dict[str, object] = {}
    exec("from wanlab import *", names)
    assert set(wanlab.__all__) <= set(names) and set(wanlab.__all__) <= set(dir(wanlab))


@pytest.mark.parametrize(("wrong", "right"), [("Zeros", "Zero"), ("bypass", "Bypass"), ("laod", "load"), ("pach", "Patch")])
def test_a_wrong_name_is_answered_with_the_nearest(wrong: str, right: str) -> None:
    with pytest.raises(AttributeError, match=f"wanlab has no '{wrong}'; nearest: {right}"):
        getattr(wanlab, wrong)


def test_an_import_of_a_name_that_is_not_there_fails_as_python_does() -> None:
    with pytest.raises(ImportError, match="Zeros"):
        from wanlab import Zeros  # noqa: F401
