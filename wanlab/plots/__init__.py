"""Figures: arrays in, `matplotlib.figure.Figure` out. Style is a file that is applied in a context, never on import."""

from __future__ import annotations

from .cost import Point, cost
from .effect import Effect
from .forest import forest
from .heatmap import heatmap
from .save import save
from .strip import strip
from .style import COLOURS, styled
from .windows import Window, windows

__all__ = ["COLOURS", "Effect", "Point", "Window", "cost", "forest", "heatmap", "save", "strip", "styled", "windows"]
