"""The door itself: the `metrics` package of this installation, and no stranger of that name."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import ModuleType


def package() -> ModuleType:
    """The `metrics` package of this installation.

    Raises:
        ImportError: another module of that name is found first; the message names its file.
    """
    metrics = import_module("metrics")
    ours = Path(__file__).resolve().parents[2] / "metrics"
    found = Path(getattr(metrics, "__file__", None) or "a namespace package without a file")
    if found.resolve().parent != ours:
        raise ImportError(
            f"the package 'metrics' of wanlab ({ours}) is shadowed by {found}: "
            "rename that file or take its folder off sys.path"
        )
    return metrics


def part(name: str) -> ModuleType:
    """One module of `metrics`, by name, after checking that it is ours."""
    return import_module(f"{package().__name__}.{name}")
