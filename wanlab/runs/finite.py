"""Where a run first goes wrong: the first site, step and branch at which NaN or infinity passes.

    found = find_nonfinite(pipe, "first.png", "a red circle moves left")
    found.site, found.step, found.branch, found.weights
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from wanlab.core import NonFiniteError, Tick, trace

from .witness import Witness


@dataclass(frozen=True)
class Search:
    """What was watched, and what was found: nothing where `what` is empty."""

    firings: int
    sites: int
    what: str = ""
    site: str | None = None
    step: int | None = None
    branch: str | None = None
    before: str | None = None           # the last firing that was finite
    weights: tuple[str, ...] = ()       # parameters and buffers that hold NaN or infinity themselves

    def __bool__(self) -> bool:
        return bool(self.what)

    def __str__(self) -> str:
        if not self.what:
            return f"no NaN or infinity in {self.firings} firings of {self.sites} sites, nor in the video"
        weights = f"{', '.join(self.weights[:3])}{f' and {len(self.weights) - 3} more' if len(self.weights) > 3 else ''}"
        return "; ".join(part for part in (
            self.what,
            f"the last finite one: {self.before}" if self.before else "it is the first site of all" if self.site else "",
            f"not finite themselves: {weights}" if weights else "every weight is finite",
        ) if part)


def find_nonfinite(pipe: Any, image: Any = None, prompt: str = "", seed: int = 0, **given: Any) -> Search:
    """Generate with every site watched, and stop at the first that is not finite. `given`: as of `pipe.generate`."""
    weights = tuple(non_finite_weights(pipe))
    found: Search | None = None
    with trace(pipe, watch_finite=True), Witness(pipe, digests=False) as seen:       # the trace looks first
        try:
            video = pipe.generate(image, prompt, seed=seed, **given).video
        except NonFiniteError as error:
            last = list(seen.firings)
            tick: Tick = error.tick
            found = Search(0, 0, str(error), error.site.name, tick.step, tick.branch, str(last[-1]) if last else None, weights)
    if found is None and not torch.isfinite(video).all():
        found = Search(0, 0, "NaN or infinity in the video, after the last site", weights=weights)
    counts: dict[str, Any] = {"firings": len(seen.firings), "sites": len({key.site for key in seen.firings})}
    return replace(found or Search(0, 0), **counts)


def non_finite_weights(model: nn.Module) -> list[str]:
    """The names of parameters and buffers that hold NaN or infinity."""
    both = [*model.named_parameters(), *model.named_buffers()]
    return [name for name, value in both if value.is_floating_point() and not torch.isfinite(value).all()]
