"""Figures as files: the same figure gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METADATA = {"pdf": {"CreationDate": None}, "svg": {"Date": None, "Creator": "wanlab"}, "png": {"Software": None}}


def figure_dpi() -> float:
    """The dots per inch at which figures are laid out where they do not say otherwise."""
    from matplotlib import rcParams

    return float(rcParams["figure.dpi"])


def save(figure: Figure, path: Path, kind: str | None = None) -> Path:
    """Write a figure as pdf, png or svg at its exact size, without dates.

    Args:
        path: the file; kind: its format where the suffix does not say it.
    """
    kind = kind or path.suffix.lstrip(".")
    if kind not in METADATA:
        raise ValueError(f"figures are written as {', '.join(METADATA)}, not {kind!r}")
    with styled():
        dpi = "figure" if figure.dpi > figure_dpi() else None  # a figure that asks for more than the style's gets it
        figure.savefig(path, format=kind, metadata=METADATA[kind], **({"dpi": dpi} if dpi else {}))
    return path
