"""Where the stages of a pipeline are while it runs: in main memory until a node needs them, on the device only while it does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

Move = Callable[[nn.Module, torch.device], Any]


class Residence:
    """Brings stages to `device` when they are needed, and first sends home those that are not: an encoder leaves once its output
    is there and the next stage comes. `here` names the stages on the device; move(stage, place) does it."""

    def __init__(self, root: nn.Module, device: torch.device, home: torch.device, move: Move = nn.Module.to) -> None:
        self.root, self.device, self.home, self._move = root, device, home, move
        self.here: list[str] = []

    def bring(self, stages: Sequence[str]) -> None:
        """Have these stages on the device, and no other."""
        for name in [name for name in self.here if name not in stages]:
            self._move(self.root.get_submodule(name), self.home)
            self.here.remove(name)
        for name in stages:
            if name not in self.here:
                self.here.append(name)      # before it moves: what fails half way is sent home by the next
                self._move(self.root.get_submodule(name), self.device)


def free_bytes(device: torch.device) -> int | None:
    """Free memory of an accelerator; None where the device has none of its own (a CPU)."""
    if device.type == "cpu":
        return None
    return int(torch.get_device_module(device).mem_get_info(device)[0])


def decide(offload: bool | str, device: torch.device, whole: Callable[[], int], free: int | None = None) -> bool:
    """Whether stages come and go: as told, or ("auto") where `whole` bytes, of all weights and the largest activations, and a tenth
    more are not free on the device. Raises ValueError for another word."""
    if offload not in (True, False, "auto"):
        raise ValueError(f"offload is True, False or 'auto', got {offload!r}")
    if offload != "auto":
        return bool(offload)
    free = free_bytes(device) if free is None else free
    return free is not None and 1.1 * whole() > free
