"""From a slider of the explorer to the repaint: JupyterLab, a kernel and Chromium, all real; taken in by benchmarks/attention.py.

The slider of the step is moved (of the shipped weights in turn with that of the layer), the page asks through the widget, the
kernel computes the map and sends it, the page paints it over the picture and all small ones. Time is
of the wall, by the page's clock, from the slider's event to after the frame that has the new map. `in the kernel` is the part in
which the map is computed, `painting` that from the map's arrival on; `transport` is what remains: messages between page, server
and kernel, on their way or waiting.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from harness import ROOT, Row, measured

if TYPE_CHECKING:
    from playwright.sync_api import Browser

TARGET = 50.0           # milliseconds, median
FRAMES, HEIGHT, WIDTH, HEADS, DEPTH = 21, 30, 52, 12, 128       # of Wan2.1-1.3B at 480p: N = 32,760
STEPS = 8
DATA = "document.querySelector('.wx-explorer').dataset"
SHOWN = "document.querySelector('.wx-explorer')?.dataset.shown"


def tiny() -> Any:
    """An explorer of a run of the shipped weights: all attentions of the generator, 8 steps, two branches."""
    import torch

    import wanlab

    torch.set_num_threads(1)
    pipe, sample = wanlab.load("tiny"), wanlab.World(size=128, split="test")[2]
    return wanlab.explore(pipe.generate(sample.video[0], sample.caption, seed=0, capture="generator.**.attn.{q,k,lse,bias}"))


def large() -> Any:
    """An explorer of one layer of Wan2.1-1.3B's size in bfloat16, at random; nothing is kept from map to map."""
    import numpy as np
    import torch

    from wanlab.analysis.map import AttentionMap, Side
    from wanlab.core import Grid
    from wanlab.nn.reads import Call
    from wanlab.plots.explorer import Explorer
    from wanlab.plots.views import Layer, View, Views

    torch.set_num_threads(1)
    sides, tokens, draw = (FRAMES, HEIGHT, WIDTH), FRAMES * HEIGHT * WIDTH, torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, HEADS, tokens, DEPTH, generator=draw).bfloat16() for _ in range(2))
    lse = torch.zeros(1, HEADS, tokens)
    rows, columns = (Side({}, {axis: tokens}, {axis: Grid(*sides)}) for axis in "nj")

    def heat(view: View) -> np.ndarray:
        seen = AttentionMap("dit", Call(q, k, k, lse=lse), rows, columns, sides, sides)
        return seen.row(*(view.place or (0, 0, 0))).values

    video = np.random.default_rng(0).random((81, 120, 208, 3))
    return Explorer(Views(video, [Layer("dit", HEADS, tuple(range(STEPS)), ("cond",), sides, sides)], heat))


def moves(browser: Browser, subject: str, count: int) -> list[dict[str, float]]:
    """Milliseconds of each move of a slider, whole and in parts."""
    sys.path.insert(0, str(ROOT))
    from tests.browser.chromium import tab, until
    from tests.browser.laboratory import executed, laboratory

    code = f"sys.path.insert(0, {str(Path(__file__).parent)!r})\nimport explorer\nshown = explorer.{subject}()\nshown"
    spent: list[dict[str, float]] = []
    with TemporaryDirectory() as folder, laboratory(Path(folder), code) as address:
        page = executed(tab(browser, [], address, 1280, 1000, dark=False), SHOWN)
        told = f"(({{lag, kernel, paint, painted}}) => [painted, +lag, +kernel, +paint])({DATA})"
        for turn in range(-3, count):                   # the first do not count
            before = page.evaluate(told)[0]
            slider = page.locator(f"input[data-of={'layer' if subject == 'tiny' and turn % 2 else 'step'}]")
            last = int(slider.get_attribute("max") or 0)
            slider.fill(str((int(slider.input_value()) + 1) % (last + 1)))
            until(page, f"{DATA}.painted && {DATA}.painted !== '{before}'")
            _, whole, kernel, paint = page.evaluate(told)
            if turn >= 0:
                spent.append({"whole": whole, "in the kernel": kernel, "painting": paint, "transport": whole - kernel - paint})
        page.context.close()
    return spent


def rows(quick: bool) -> Iterator[Row]:
    """Slider to repaint, and its parts; skipped where no browser is installed."""
    sys.path.insert(0, str(ROOT))
    from tests.browser.chromium import chromium, missing

    sizes = {"tiny": "the shipped weights", "large": "N 32,760, 12 heads"}
    if missing():
        for told in sizes.values():
            yield Row(f"explorer, slider to repaint, {told}", None, "ms", TARGET, skipped=missing())
        return
    with chromium() as browser:
        for subject, told in sizes.items():
            spent = moves(browser, subject, 30 if quick else 150)
            yield measured(f"explorer, slider to repaint, {told}", [one["whole"] for one in spent], "ms", TARGET)
            for part in ("in the kernel", "transport", "painting"):
                yield Row.of(f"explorer, {part}, {told}", median(one[part] for one in spent), "ms")
