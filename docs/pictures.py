#!/usr/bin/env python3
"""Draws the pictures of README and docs: .venv/bin/python docs/pictures.py [components] [explorer] [cascade].

The explorer's picture is the page that `to_html` writes, photographed by Debian's chromium; the cascade's has the sizes of the
preset `article`, read from it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from einops import rearrange

import wanlab
from wanlab.plots import strip
from wanlab.plots.style import sheet, styled

OUT = Path(__file__).parent / "img"
ROWS = ("text", "image", "temporal", "alignment", "residual", "gan_head")
INDEX = 2
LAYER = "generator.up.1.cross.attn"


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
    """Where the word "triangle" is read at the finest level, in the page without a kernel."""
    pipe = wanlab.load("tiny")
    sample = wanlab.World(size=128, split="test")[INDEX]
    out = pipe.generate(sample.video[0], sample.caption, seed=0, capture="generator.up.**.cross.attn.{q,k,lse,bias}")
    path = OUT / "explorer.png"
    with tempfile.TemporaryDirectory() as folder:
        page = wanlab.explore(out).show(layer=LAYER, step=7, head=0, word="triangle").to_html(Path(folder) / "explorer.html")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=10000",
                   f"--user-data-dir={folder}/profile", "--force-device-scale-factor=1", "--window-size=944,620"]
        subprocess.run(["chromium", *options, f"--screenshot={path}", page.path.as_uri()], check=True, capture_output=True)
    return path


def cascade() -> Path:
    """The article's system: its stages as boxes with their sizes, the denoising loop around three of them."""
    pipe = wanlab.load("article", init="meta")
    shapes = {site.name: site for site in pipe.sites()}

    def size(site: str, axes: str) -> str:
        return " x ".join(str(shapes[site].size(axis)) for axis in axes.split())

    def weights(*stages: str) -> str:
        count = sum(value.numel() for stage in stages for value in pipe.get_submodule(stage).parameters())
        return f"{count / 1e6:.0f} M" if count >= 1e6 else f"{count / 1e3:.0f} k"

    unet = " / ".join(map(str, pipe.generator.config.widths))
    boxes = {      # name: x, y, width, height, title, lines
        "text": (0.2, 5.6, 2.2, 1.1, "text", f"T5-base, {weights('text')}\ntokens {size('text.out', 'j c')}"),
        "image": (0.2, 3.9, 2.2, 1.35, "image", f"autoencoder + DiT-XL/2, {weights('image')}\n"
                  f"latent {size('image.latent', 'c h w')}\ntokens {size('image.tokens', 'n c')}, pooled"),
        "fusion": (3.2, 4.7, 2.0, 1.35, "fusion", f"cross-attention, {weights('fusion')}\ntime embedding\n"
                   f"context {size('fusion.context', 'j c')}"),
        "generator": (5.8, 4.7, 2.2, 1.35, "generator", f"UNet {unet}, {weights('generator')}\n"
                      f"video {size('generator.noisy', 'f c h w')}\nand layered motion"),
        "align": (8.6, 4.7, 1.9, 1.35, "align", f"first frame, warped\nby the motion, {weights('align')}\n"
                  f"{shapes['align.masks'].size('m')} layers"),
        "detail": (8.9, 1.5, 1.75, 1.15, "detail", f"content + GAN head\n{weights('detail')}\nout {size('detail.out', 'h w')}"),
        "discriminator": (8.6, 0.0, 2.05, 1.05, "discriminator",
                          f"VGG features per frame\n+ 3D branch, {weights('discriminator')}"),
    }
    wide = 2.0
    for i in range(len(pipe.upsample)):
        level = f"upsample.{i}"
        told = f"x2, {weights(level)}\n{size(f'{level}.inlet', 'h w')} to {size(f'{level}.out', 'h w')}\nskip + branch"
        boxes[level] = (0.2 + i * (wide + 0.2), 1.5, wide, 1.15, level, told)
    return _diagram(boxes, OUT / "cascade.png")


def _diagram(boxes: dict[str, tuple[float, float, float, float, str, str]], path: Path) -> Path:
    from matplotlib.patches import FancyBboxPatch

    with styled():
        figure = sheet(7.2, 4.7)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, 10.9), ylim=(-0.25, 7.15))
        axes.axis("off")

        def frame(x: float, y: float, w: float, h: float, **look: Any) -> None:
            axes.add_patch(FancyBboxPatch((x, y), w, h, boxstyle="round,pad=0,rounding_size=0.08", **look))

        def arrow(start: tuple[float, float], end: tuple[float, float], **look: Any) -> None:
            plain = {"arrowstyle": "-|>", "color": "#444444", "lw": 0.8, "shrinkA": 0, "shrinkB": 0}
            axes.annotate("", end, start, arrowprops=plain | look)

        frame(3.0, 4.2, 7.7, 2.25, fc="#f4f7fb", ec="#0072B2", lw=0.8, ls=(0, (4, 2)))
        axes.text(10.6, 6.55, "denoising loop: every step, cond and uncond", ha="right", va="bottom", color="#0072B2")
        frame(0.05, 1.2, 10.75, 2.0, fc="#fdf8ef", ec="#E69F00", lw=0.8, ls=(0, (4, 2)))
        axes.text(1.35, 3.25, "super-resolution, beyond 512 pixels in tiles", ha="left", va="bottom", color="#9a6a00")
        for name, (x, y, w, h, title, lines) in boxes.items():
            frame(x, y, w, h, fc="white", ec="#444444", lw=0.9, ls=(0, (2, 1.5)) if name == "discriminator" else "-")
            axes.text(x + 0.1, y + h - 0.1, title, va="top", weight="bold")
            axes.text(x + 0.1, y + h - 0.4, lines, va="top", fontsize=6, linespacing=1.25)
        axes.text(0.2, 6.8, "prompt", style="italic")
        axes.text(0.2, 5.35, "first frame", style="italic", va="bottom")
        axes.text(6.2, 6.8, "noise (seed)", style="italic")
        for start, end in (((2.4, 6.0), (3.2, 5.7)), ((2.4, 4.7), (3.2, 5.1)), ((5.2, 5.4), (5.8, 5.4)), ((8.0, 5.4), (8.6, 5.4)),
                           ((6.6, 6.75), (6.6, 6.05))):
            arrow(start, end)
        arrow((9.5, 6.05), (7.4, 6.05), connectionstyle="arc3,rad=0.35")
        axes.text(8.45, 6.16, "next step", ha="center", fontsize=6)
        axes.plot([9.5, 9.5, 1.2], [4.7, 3.55, 3.55], color="#444444", lw=0.8)
        arrow((1.2, 3.55), (1.2, 2.65))
        axes.text(5.3, 3.62, "video 64 x 64, motion and masks: the first frame, moved, guides every level", ha="center", fontsize=6)
        for i in range(4):
            right = 0.2 + i * 2.2 + 2.0
            arrow((right, 2.0), (right + 0.2 if i < 3 else 8.9, 2.0))
            axes.annotate("", (right - 0.25, 1.5), (0.45 + i * 2.2, 1.5), arrowprops={
                "arrowstyle": "-|>", "color": "#D55E00", "lw": 0.8, "connectionstyle": "arc3,rad=0.12"})
        axes.text(0.2, 0.85, "residual links: bicubic x2 around each branch", color="#D55E00", va="top", fontsize=6)
        arrow((9.7, 1.5), (9.7, 1.05), linestyle=(0, (2, 1.5)))
        axes.text(8.5, 0.5, "only in training", ha="right", va="center", fontsize=6, style="italic")
        figure.savefig(path, dpi=200)
    return path


if __name__ == "__main__":
    drawn = {"components": components, "explorer": explorer, "cascade": cascade}
    for name in sys.argv[1:] or drawn:
        print(drawn[name]())
