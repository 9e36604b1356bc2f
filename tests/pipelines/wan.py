"""Wan with random weights, smaller than the presets: for tests."""

from __future__ import annotations

from dataclasses import replace

from wanlab.pipelines.wan21 import Wan
from wanlab.pipelines.wan_parts import random_pipeline
from wanlab.pipelines.wan_presets import PRESETS, Preset

FEW = {"heads": 2, "head_width": 16, "depth": 3, "hidden": 64}


def small(kind: str = "i2v") -> Preset:
    """Sizes of a small image-to-video ("i2v") or text-to-video ("t2v") model of three blocks."""
    preset = PRESETS["wan-random-tiny" if kind == "i2v" else "wan-random-tiny-t2v"]
    return replace(preset, dit=replace(preset.dit, **FEW))


def made(kind: str = "i2v", seed: int = 0) -> Wan:
    """A small pipeline."""
    return random_pipeline(small(kind), seed)
