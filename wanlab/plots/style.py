"""The style of all figures, and their colours."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

STYLE = Path(__file__).with_name("wanlab.mplstyle")

# Okabe and Ito's palette: told apart with any colour vision, and each kind has a marker of its own besides.
COLOURS = {"worse": "#D55E00", "better": "#0072B2", "changed": "#CC79A7", "unclear": "#777777", "ink": "#222222"}
MARKERS = {"worse": "v", "better": "^", "changed": "D", "unclear": "o"}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Draw inside this context to get the house style; matplotlib's own settings are back afterwards."""
    from matplotlib import rc_context, rcdefaults

    with rc_context():
        rcdefaults()
        with rc_context(fname=str(STYLE)):
            yield
