"""Components: a name that means the same in every pipeline, and the edits that remove what it names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from wanlab.core import Edit


def removing(*edits: Edit) -> Callable[[], list[Edit]]:
    """What gives these edits, a list of its own each time. No lambda: a pipeline can be pickled."""
    return partial(list, edits)
