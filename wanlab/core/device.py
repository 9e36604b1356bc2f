"""Whether a device of torch is here, told in words where it is not."""

from __future__ import annotations

from typing import Any

import torch

from wanlab.core.nearest import suggestion
from wanlab.core.quote import quoted

USUAL = ("cpu", "cuda", "cuda:0", "mps", "xpu")


def demand_device(name: Any, what: str = "device") -> torch.device:
    """The device of this name. Raises ValueError, saying for what it was given, where torch knows none such or this machine has
    none."""
    shown = name if isinstance(name, str) and len(name) < 40 else quoted(name)
    try:
        device = torch.device(name) if isinstance(name, str) else None
    except (RuntimeError, ValueError, OverflowError):
        device = None
    if device is None or device.type == "meta":
        raise ValueError(f"{what} {shown}: unknown{suggestion(str(name), USUAL)}")
    if device.type != "cpu" and (here := _count(device)) <= (device.index or 0):
        have = f"{here} of the kind" if here else f"no {device.type.upper()} device"
        raise ValueError(f"{what} {shown}: {have} on this machine; use cpu")
    return device


def _count(device: torch.device) -> int:
    """How many devices of a kind are here."""
    try:
        module: Any = torch.get_device_module(device.type)
        return int(module.device_count()) if module.is_available() else 0
    except (RuntimeError, AttributeError):                  # a kind of which this torch was built without
        return 0
