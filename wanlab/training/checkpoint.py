"""Checkpoints of a training: written to a temporary name and renamed, so that there is never half a file."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn


class Average:
    """Exponential moving average of a module's parameters; early on it follows faster: min(decay, (1 + s) / (10 + s))."""

    def __init__(self, module: nn.Module, decay: float = 0.998) -> None:
        self.module, self.decay, self.step = copy.deepcopy(module).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take one step towards the present parameters."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        self.step += 1
        for mine, theirs in zip(self.module.parameters(), module.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay)


def save(path: Path, **state: Any) -> None:
    """Save a dictionary of state dicts, tensors and numbers under `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    torch.save(state, part)
    part.replace(path)


def load(path: Path) -> dict[str, Any]:
    """Load what `save` wrote; nothing but tensors and plain data is accepted."""
    return torch.load(path, map_location="cpu", weights_only=True)
