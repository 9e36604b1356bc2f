"""Checkpoints of a training: written to a temporary name and renamed, so that there is never half a file."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

KEYS = ("model", "average", "average_step", "optim", "step", "seconds", "recipe", "beside")  # of what a training saves


@dataclass(frozen=True)
class Spent:
    """Seconds that steps took, over all resumes: of the processor, and of the clock on the wall."""

    processor: float = 0.0
    wall: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        """Both, one after the other."""
        return Spent(self.processor + other.processor, self.wall + other.wall)

    @property
    def minutes(self) -> dict[str, float]:
        """As provenance has it."""
        return {"processor_minutes": round(self.processor / 60, 1), "wall_minutes": round(self.wall / 60, 1)}


class Average:
    """Exponential moving average of a module's parameters, and of what it counts beside them (the statistics of a batch
    normalisation); early on it follows faster: min(decay, (1 + s) / (10 + s)).

    What does not learn is shared with the module: its average is itself, and it may be large.
    """

    def __init__(self, module: nn.Module, decay: float = 0.998) -> None:
        shared = {id(value): value for value in module.parameters() if not value.requires_grad}
        self.module, self.decay, self.step = copy.deepcopy(module, shared).eval().requires_grad_(False), decay, 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take one step towards the present parameters and buffers; whole numbers are taken over."""
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        self.step += 1
        for mine, theirs in zip(_held(self.module), _held(module), strict=True):
            if mine.is_floating_point():
                mine.lerp_(theirs, 1 - decay)
            else:
                mine.copy_(theirs)


def _held(module: nn.Module) -> Iterator[Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def save(path: Path, **state: Any) -> None:
    """Save a dictionary of state dicts, tensors and numbers under `path`. Raises OSError where it cannot be written."""
    part = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, part)
        with part.open("rb+") as stream:  # on the disk before it takes the old one's name
            os.fsync(stream.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:  # a full disk is a RuntimeError of torch
        part.unlink(missing_ok=True)
        raise unwritten(path, error) from error


def unwritten(path: Path, error: Exception) -> OSError:
    """What to say of a file of a training that cannot be written, most often because the disk is full."""
    where = next(folder for folder in path.parents if folder.exists())
    free = shutil.disk_usage(where).free / 1024**2
    reason = str(error).strip().splitlines()[0]
    return OSError(
        f"{path} cannot be written ({free:.0f} MiB free on this disk; {reason}). The checkpoint before it is kept: make room and "
        "give the same command again, it goes on from there"
    )


def load(path: Path) -> dict[str, Any]:
    """Load what a training saved; nothing but tensors and plain data is accepted.

    Raises ValueError, naming the file, for one that is damaged or was written by something else; FileNotFoundError.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (FileNotFoundError, MemoryError):
        raise
    except Exception as error:  # of damaged bytes each part of the reader raises something else
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise ValueError(f"{path} is damaged or no checkpoint of a training ({reason}); remove it to train anew") from error
    if not isinstance(state, dict) or (missing := [key for key in KEYS if key not in state]):
        lacks = ", ".join(missing) if isinstance(state, dict) else "everything"
        raise ValueError(f"{path} is no checkpoint of a training: it lacks {lacks}")
    return state
