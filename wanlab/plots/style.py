"""The style of all figures, and their colours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("wanlab.mplstyle")

# Okabe and Ito's palette: told apart with any colour vision, and each kind has a marker of its own besides.
COLOURS = {"worse": "#D55E00", "better": "#0072B2", "changed": "#CC79A7", "unclear": "#777777", "apart": "#555555",
           "ink": "#222222"}  # fmt: skip
PAGE = 8.6  # inches: figures that would be higher are divided
MARKERS = {"worse": "v", "better": "^", "changed": "D", "unclear": "o", "apart": "s"}

SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
SYMBOLS, DASHES = "osD^vP*X", ((), (4, 1.5), (1.2, 1.2), (5, 1.2, 1.2, 1.2))  # the second channel of a series


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw inside this context to get the house style; matplotlib's own settings are back afterwards."""
    from matplotlib import rc_context, rcdefaults

    with rc_context():
        rcdefaults()
        with rc_context(fname=str(STYLE)):
            yield


def sheet(width: float, height: float, dpi: float | None = None) -> Figure:
    """An empty figure of an exact size in inches whose panels stand where they are put, however often it is saved."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import PlaceHolderLayoutEngine

    # layout="none" would not do: saving leaves the style's layout engine behind, and the next save moves the panels
    return Figure(figsize=(width, height), dpi=dpi, layout=PlaceHolderLayoutEngine(False, False))
