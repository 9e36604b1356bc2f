"""The report of a run folder: report.html, table.tex, table.csv and figures, from finished cells alone."""

from __future__ import annotations

from .build import write_all

__all__ = ["write_all"]
