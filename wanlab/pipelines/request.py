"""Requests: what a pipeline is asked to generate, one row a sample; they can be cut into rows and joined again."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wanlab.core.quote import quoted

HALVES = re.compile("[\ud800-\udfff]")  # of letters, as bytes that are not UTF-8 become on a command line
STEPS = 10_000  # denoising steps that anybody could mean
SEEDS = 2**63  # that a generator tells apart

@dataclass(frozen=True)
class Request:
    """What to generate, one row each. `images`, the first frames, and `last`, the last ones: b c h w in [0, 1] at the output's
    size; None: no image. guidance_2: of the second of two experts, None: as of the first."""

    prompts: list[str]
    seeds: list[int]
    images: Tensor | None
    steps: int
    guidance: float
    negative: list[str] | None = None
    last: Tensor | None = None
    guidance_2: float | None = None

    def __post_init__(self) -> None:
        sizes = {"prompts": len(self.prompts), "seeds": len(self.seeds)}
        sizes |= {} if self.images is None else {"images": len(self.images)}
        sizes |= {} if self.last is None else {"last": len(self.last)}
        sizes |= {} if self.negative is None else {"negative": len(self.negative)}
        if len(set(sizes.values())) != 1:
            raise ValueError(f"a request needs as many of each: {sizes}")
        if not 1 <= self.steps <= STEPS:
            raise ValueError(f"steps must be at least 1 and at most {STEPS:,}, got {self.steps:,}")
        for name, scale in (("guidance", self.guidance), ("guidance_2", self.guidance_2)):
            if scale is not None and not math.isfinite(scale):
                raise ValueError(f"{name} must be a finite number, got {scale}")
        for prompt in (*self.prompts, *(self.negative or ())):
            if found := HALVES.search(prompt):
                raise ValueError(f"the prompt {quoted(prompt)} holds U+{ord(found.group()):04X}, which is no text: is it in UTF-8?")
        for seed in self.seeds:
            if not 0 <= seed < SEEDS:
                raise ValueError(f"a seed is a whole number from 0 to {SEEDS - 1:,}, got {seed:,}")

    def __len__(self) -> int:
        return len(self.prompts)

    def cut(self, rows: slice) -> Request:
        """The request of some of the rows."""
        return replace(self, prompts=self.prompts[rows], seeds=self.seeds[rows],
                       images=None if self.images is None else self.images[rows],
                       last=None if self.last is None else self.last[rows],
                       negative=None if self.negative is None else self.negative[rows])

    def join(self, others: Sequence[Request]) -> Request:
        """These rows and those of `others`, which agree in everything that is not a row's own; steps and guidance of this one."""
        every = [self, *others]
        return replace(self, prompts=[one for each in every for one in each.prompts],
                       seeds=[one for each in every for one in each.seeds],
                       images=None if self.images is None else torch.cat([each.images for each in every]),
                       last=None if self.last is None else torch.cat([each.last for each in every]),
                       negative=None if self.negative is None else [one for each in every for one in each.negative or ()])
