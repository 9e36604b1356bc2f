#!/usr/bin/env python3
"""Draws the README's pictures from the shipped weights: .venv/bin/python docs/pictures.py [components] [explorer].

The explorer's picture is the page that `to_html` writes, photographed by Debian's chromium.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from einops import rearrange

import wanlab
from wanlab.plots import strip

OUT = Path(__file__).parent / "img"
ROWS = ("text", "image", "temporal", "alignment", "residual", "gan_head")
INDEX = 2
LAYER = "generator.up.0.cross.attn"


def components() -> Path:
    """One clip: truth, the whole cascade, and the cascade without one component in each row."""
    pipe = wanlab.load("tiny")
    sample = wanlab.World(size=128, split="test")[INDEX]
    rows = {"truth": sample.video}
    rows["whole"] = pipe.generate(sample.video[0], sample.caption, seed=0).video[0]
    for part in ROWS:
        rows[f"no {part}"] = pipe.generate(sample.video[0], sample.caption, seed=0, edits=pipe.ablate(part)).video[0]
    clips = {name: rearrange(video, "f c h w -> f h w c").numpy() for name, video in rows.items()}
    figure = strip(clips, width=5.5, title=f"“{sample.caption}”")
    figure.savefig(OUT / "components.jpg", dpi=190, pil_kwargs={"quality": 88})
    return OUT / "components.jpg"


def explorer() -> Path:
    """Where the word "up" is read half-way up, in the page without a kernel."""
    pipe = wanlab.load("tiny")
    sample = wanlab.World(size=128, split="test")[INDEX]
    out = pipe.generate(sample.video[0], sample.caption, seed=0, capture="generator.up.**.cross.attn.{q,k,lse,bias}")
    path = OUT / "explorer.png"
    with tempfile.TemporaryDirectory() as folder:
        page = wanlab.explore(out).show(layer=LAYER, step=7, head=1, word="up").to_html(Path(folder) / "explorer.html")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=10000",
                   f"--user-data-dir={folder}/profile", "--force-device-scale-factor=1", "--window-size=944,620"]
        subprocess.run(["chromium", *options, f"--screenshot={path}", page.path.as_uri()], check=True, capture_output=True)
    return path


if __name__ == "__main__":
    drawn = {"components": components, "explorer": explorer}
    for name in sys.argv[1:] or drawn:
        print(drawn[name]())
