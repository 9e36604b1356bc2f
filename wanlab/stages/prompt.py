"""What is warned of: prompts that a pipeline does not read as they stand."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable


class PromptWarning(UserWarning):
    """Something in a prompt has no effect on the video."""


class CutWarning(PromptWarning):
    """A prompt is longer than a text stage takes in."""


def warn_of_cut(prompts: Iterable[str], cut_of: Callable[[str], str]) -> None:
    """Warn of each prompt of which `cut_of`, a stage's, has something to say: once, however many rows have it."""
    for prompt in dict.fromkeys(prompts):
        if said := cut_of(prompt):
            warnings.warn(said, CutWarning, stacklevel=3)
