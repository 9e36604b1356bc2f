"""Figures as files: the same figure gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .style import styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METADATA = {"pdf": {"CreationDate": None}, "svg": {"Date": None, "Creator": "wanlab"}, "png": {"Software": None}}


def save(figure: Figure, path: Path, kind: str | None = None) -> Path:
    """Write a figure as pdf, png or svg at its exact size, without dates.

    Args:
        path: the file; kind: its format where the suffix does not say it.
    """
    kind = kind or path.suffix.lstrip(".")
    if kind not in METADATA:
        raise ValueError(f"figures are written as {', '.join(METADATA)}, not {kind!r}")
    with styled():
        figure.savefig(path, format=kind, metadata=METADATA[kind])
    return path
