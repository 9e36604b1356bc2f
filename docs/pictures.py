#!/usr/bin/env python3
"""Draws the README's picture from the shipped weights: .venv/bin/python docs/pictures.py [index of a test clip]."""

from __future__ import annotations

import sys
from pathlib import Path

from einops import rearrange

import wanlab
from wanlab.plots import strip

OUT = Path(__file__).parent / "img" / "components.jpg"
ROWS = ("text", "image", "temporal", "alignment", "residual", "gan_head")
INDEX = 2


def main(index: int) -> None:
    """One clip: truth, the whole cascade, and the cascade without one component in each row."""
    pipe = wanlab.load("tiny")
    sample = wanlab.World(size=128, split="test")[index]
    rows = {"truth": sample.video}
    rows["whole"] = pipe.generate(sample.video[0], sample.caption, seed=0).video[0]
    for part in ROWS:
        rows[f"no {part}"] = pipe.generate(sample.video[0], sample.caption, seed=0, edits=pipe.ablate(part)).video[0]
    clips = {name: rearrange(video, "f c h w -> f h w c").numpy() for name, video in rows.items()}
    strip(clips, width=5.5, title=f"“{sample.caption}”").savefig(OUT, dpi=190, pil_kwargs={"quality": 88})
    print(OUT)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else INDEX)
