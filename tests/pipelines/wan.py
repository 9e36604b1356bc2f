"""Wan with random weights, smaller than the presets: for tests."""

from __future__ import annotations

from dataclasses import replace

from wanlab.pipelines.wan21 import Wan
from wanlab.pipelines.wan_parts import random_pipeline
from wanlab.pipelines.wan_presets import PRESETS, Preset

FEW = {"heads": 2, "head_width": 16, "depth": 3, "hidden": 64}


def small(kind: str = "i2v") -> Preset:
    """Sizes of a small model of three blocks: image-to-video ("i2v"), text-to-video ("t2v"), first and last frame ("flf2v"), two
    experts ("a14b": image-to-video, "a14b-t2v"), a time for each token ("5b")."""
    preset = PRESETS[{"i2v": "wan-random-tiny", "a14b-t2v": "wan-random-tiny-a14b"}.get(kind, f"wan-random-tiny-{kind}")]
    channels = {"inputs": 16} if kind == "a14b-t2v" else {}
    return replace(preset, dit=replace(preset.dit, **FEW, **channels))


def made(kind: str = "i2v", seed: int = 0) -> Wan:
    """A small pipeline."""
    return random_pipeline(small(kind), seed)
