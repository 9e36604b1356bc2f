#!/usr/bin/env python3
"""Draws the README's picture from the shipped weights: .venv/bin/python docs/pictures.py [index of a test clip]."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from einops import rearrange
from torch import Tensor

import wanlab

OUT = Path(__file__).parent / "img" / "components.png"
ROWS = ("text", "image", "temporal", "alignment", "residual", "gan_head")
INDEX = 3


def strip(video: Tensor) -> Tensor:
    """`f c h w` as one row of frames, `h (f w) c`, two white pixels between."""
    padded = torch.nn.functional.pad(video, (0, 2), value=1.0)
    return rearrange(padded, "f c h w -> h (f w) c")[:, :-2]


def main(index: int) -> None:
    """One clip: truth, the whole cascade, and the cascade without one component in each row."""
    pipe = wanlab.load("tiny")
    sample = wanlab.World(size=128, split="test")[index]
    rows = {"truth": sample.video}
    rows["whole"] = pipe.generate(sample.video[0], sample.caption, seed=0).video[0]
    for part in ROWS:
        rows[f"no {part}"] = pipe.generate(sample.video[0], sample.caption, seed=0, edits=pipe.ablate(part)).video[0]
    figure, axes = plt.subplots(len(rows), 1, figsize=(8.6, 1.06 * len(rows) + 0.3), layout="constrained")
    for axis, (name, video) in zip(axes, rows.items(), strict=True):
        axis.imshow(strip(video).numpy(), interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=10)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.suptitle(f"“{sample.caption}”", fontsize=11)
    figure.savefig(OUT, dpi=110, metadata={"Software": None})
    print(OUT)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else INDEX)
