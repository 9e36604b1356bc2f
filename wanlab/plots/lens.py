"""Film strips of lenses: one picture for each layer and step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from wanlab.plots.style import sheet, styled
from wanlab.plots.text import inches, shortened

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def filmstrip(pictures: np.ndarray, rows: Sequence[str], columns: Sequence[str], width: float = 5.5) -> Figure:
    """Pictures (rows columns h w 3 in [0, 1]) in a grid with names at its left and top. Raises ValueError for another shape."""
    if pictures.ndim != 5 or pictures.shape[-1] != 3 or pictures.shape[:2] != (len(rows), len(columns)):
        raise ValueError(f"pictures are rows columns h w 3 with {len(rows)} rows and {len(columns)} columns, got {pictures.shape}")
    left, top = min(max(inches(name, 6) for name in rows) + 0.1, 0.4 * width), 0.16
    side = (width - left) / len(columns)
    tall = side * pictures.shape[2] / pictures.shape[3]
    height = top + tall * len(rows)
    with styled():
        figure = sheet(width, height)
        for (row, column), _ in np.ndenumerate(pictures[..., 0, 0, 0]):
            at = ((left + column * side) / width, 1 - (top + (row + 1) * tall) / height, 0.97 * side / width, 0.97 * tall / height)
            axes = figure.add_axes(at)
            axes.imshow(pictures[row, column], interpolation="nearest", vmin=0, vmax=1)
            axes.set_axis_off()
            if row == 0:
                axes.set_title(columns[column], fontsize=6, pad=2, loc="center", fontweight="normal")
            if column == 0:
                figure.text((left - 0.05) / width, 1 - (top + (row + 0.5) * tall) / height, shortened(rows[row], left - 0.08, 6),
                            ha="right", va="center", fontsize=6, parse_math=False)
    return figure
