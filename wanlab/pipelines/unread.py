"""What of prompts has no effect on a video, told before it is made."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from wanlab.diffusion.sampler import UNCOND
from wanlab.pipelines.request import Request
from wanlab.stages.prompt import PromptWarning


def unread(pipe: Any, request: Request) -> Iterator[str]:
    """Words that the text stage does not know, and a negative prompt that nothing reads. That a prompt is cut, the text stage
    says itself as it reads it (`cut_of`)."""
    prompts = [*request.prompts, *(request.negative or ())]
    unknown = list(dict.fromkeys(word for prompt in dict.fromkeys(prompts) for word in pipe.unknown_words(prompt)))
    if unknown:
        yield f"the text stage does not know: {', '.join(unknown)}"
    if any(request.negative or ()) and UNCOND not in pipe.branches(request):
        yield "with guidance 1 the negative prompt has no effect: the branch that reads it does not run"


def warn_of_unread(pipe: Any, request: Request) -> None:
    """The same as warnings, at the line that called `generate`."""
    for said in unread(pipe, request):
        warnings.warn(said, PromptWarning, stacklevel=3)
