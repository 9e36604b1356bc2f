"""Figures: arrays in, `matplotlib.figure.Figure` out. Style is a file that is applied in a context, never on import."""

from __future__ import annotations

from .effect import Effect
from .forest import forest
from .save import save
from .strip import strip
from .style import COLOURS, styled

__all__ = ["COLOURS", "Effect", "forest", "save", "strip", "styled"]
