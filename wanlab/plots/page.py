"""The explorer as one page without kernel or network: maps are computed beforehand, and as many as the budget holds."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from wanlab.plots.explorer import HERE, setup
from wanlab.plots.views import HIDDEN, Layer, Map, Place, View, Views

ASKED = 512         # patches of a layer that can be asked, at most: more are thinned evenly before anything else is


@dataclass(frozen=True)
class Page:
    """A page that was written: its path, its bytes, and in words what the budget left out."""

    path: Path
    size: int
    dropped: tuple[str, ...] = ()

    def __str__(self) -> str:
        told = f"{self.path}: {self.size / 1e6:.1f} MB"
        return told + (f"; left out: {'; '.join(self.dropped)}" if self.dropped else "")


@dataclass(frozen=True)
class Kept:
    """What of a layer a page holds, beside the mean of its heads. places: of each side those that can be asked."""

    layer: Layer
    steps: tuple[int | None, ...]
    branches: tuple[str | None, ...]
    heads: tuple[int, ...]
    places: tuple[tuple[int, ...], ...]

    @property
    def asked(self) -> list[Place]:
        """Patches that can be asked, in the page's order."""
        if self.layer.keys is None:
            return []
        frames, rows, columns = self.places
        return [(f, h, w) for f in frames for h in rows for w in columns]


def write(views: Views, view: View, path: Path, budget: int) -> Page:
    """The page with the most that fits. Warns of what was left out."""
    whole = [_whole(layer, view) for layer in views.layers]
    plan, sheets = list(whole), Sheets(views)
    reductions = _reductions(view)
    while True:
        room = budget - len(_page(views, plan, view, {}, whole))
        if sheets.guess(plan) <= room:
            page = _page(views, plan, view, sheets.of(plan), whole)
            if len(page) <= budget:
                break
        smaller = next(reductions, None)
        if smaller is None:
            raise ValueError(f"not even the map that is shown fits into {budget / 1e6:g} MB; the page takes "
                             f"{(budget - room) / 1e6:.2f} MB without any")
        plan = smaller(plan)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(page)
    os.replace(partial, path)
    dropped = _dropped(whole, plan)
    if dropped:
        warnings.warn(f"{path.name}: a budget of {budget / 1e6:g} MB left out {'; '.join(dropped)}", stacklevel=3)
    return Page(path, len(page), tuple(dropped))


def _whole(layer: Layer, view: View) -> Kept:
    """All of a layer, patches thinned to ASKED; the one that is shown is kept."""
    shown = view.place if view.layer == layer.name else None
    kept = Kept(layer, layer.steps, layer.branches, tuple(range(layer.heads)), tuple(tuple(range(side)) for side in layer.sides))
    while len(kept.asked) > ASKED and max(map(len, kept.places)) > 1:
        kept = _sparser(kept, shown)
    return kept


def _sparser(kept: Kept, shown: Place | None) -> Kept:
    """Every second position of the longest side."""
    longest = max(range(3), key=lambda side: len(kept.places[side]))
    places = list(kept.places)
    places[longest] = _half(places[longest], None if shown is None else shown[longest])
    return replace(kept, places=tuple(places))


def _half(held: Sequence[Any], shown: Any = None) -> tuple[Any, ...]:
    """Every second, the shown one among them."""
    start = list(held).index(shown) % 2 if shown in held else 0
    return tuple(held[start::2])


Reduction = Callable[[list[Kept]], list[Kept]]
T = TypeVar("T")


def _reductions(view: View) -> Iterator[Reduction]:
    """Smaller and smaller plans: what a look around can spare first goes first. What is shown stays."""
    def steps(one: Kept) -> Kept:
        return replace(one, steps=_half(one.steps, view.step) if len(one.steps) > 1 else one.steps)

    def branches(one: Kept) -> Kept:
        return replace(one, branches=(view.branch if view.branch in one.branches else one.branches[0],))

    def heads(one: Kept) -> Kept:
        return replace(one, heads=_half(one.heads, view.head))

    def mean(one: Kept) -> Kept:
        return replace(one, heads=() if view.head is None or view.head not in one.heads else (view.head,))

    def places(one: Kept) -> Kept:
        return _sparser(one, view.place if one.layer.name == view.layer else None)

    def fewer(plan: list[Kept]) -> list[Kept]:
        at = next(i for i, one in enumerate(plan) if one.layer.name == view.layer)
        return plan[at % 2::2] if len(plan) > 1 else plan

    def each(change: Callable[[Kept], Kept]) -> Reduction:
        return lambda plan: [change(one) for one in plan]

    yield from [each(steps), each(branches), each(steps), each(heads), fewer, each(steps), fewer, each(mean), each(steps)]
    yield from [fewer] * 6
    yield from [each(steps)] * 4
    yield from [each(places)] * 24


class Sheets:
    """Maps of one layer, step, branch and head, together and compressed: those of its patches, then those of its words.

    First `high` and `total` of each map (float32, little-endian), then the bytes.
    """

    def __init__(self, views: Views) -> None:
        self.views = views
        self._made: dict[tuple[Any, ...], dict[int | None, bytes]] = {}

    def guess(self, plan: list[Kept]) -> float:
        """Bytes that the sheets of a plan take in a page, from one that is made of each layer."""
        total = 0.0
        for kept in _counted(plan, "sizes"):
            first = self.moment(kept, kept.steps[0], kept.branches[0])[None]
            total += 4 / 3 * len(first) * len(kept.steps) * len(kept.branches) * (1 + len(kept.heads))
        return 0.9 * total

    def of(self, plan: list[Kept]) -> dict[str, str]:
        """All sheets by name (layer|step|branch|head), base64."""
        moments = [(kept, step, branch) for kept in plan for step in kept.steps for branch in kept.branches]
        made = {}
        for kept, step, branch in _counted(moments, "maps"):
            for head, sheet in self.moment(kept, step, branch).items():
                if head is None or head in kept.heads:
                    made[_name(kept.layer.name, step, branch, head)] = base64.b64encode(sheet).decode()
        return made

    def moment(self, kept: Kept, step: int | None, branch: str | None) -> dict[int | None, bytes]:
        """The sheets of all heads of one layer at one moment."""
        key = kept.layer.name, step, branch, kept.places
        if key not in self._made:
            self._made[key] = self._moment(kept, step, branch)
        return self._made[key]

    def _moment(self, kept: Kept, step: int | None, branch: str | None) -> dict[int | None, bytes]:
        layer, maps = kept.layer, []
        words = self.views.words.get(branch, ()) if layer.words else ()
        moment = View(layer.name, step, branch)
        for view in [*(moment._replace(place=place) for place in kept.asked), *(moment._replace(word=word) for word in words)]:
            heat = np.asarray(self.views.heat(view), np.float64)
            heads: list[np.ndarray] = [heat.mean(0), *heat]
            maps.append([Map.of(one, view.word is not None) for one in heads])
        return {head: _sheet([one[i] for one in maps]) for i, head in enumerate([None, *range(layer.heads)])}


def _counted(items: list[T], title: str) -> Iterable[T]:
    """The items, with a bar on stderr where they are many and a terminal or a notebook looks on."""
    from rich.console import Console
    from rich.progress import track

    return track(items, title, console=Console(stderr=True), transient=True, disable=len(items) < 8)


def _sheet(maps: list[Map]) -> bytes:
    numbers = np.array([[one.high, one.total] for one in maps], "<f4").tobytes()
    return zlib.compress(numbers + b"".join(one.values.tobytes() for one in maps), 9)


def _name(layer: str, step: int | None, branch: str | None, head: int | None) -> str:
    return "|".join("null" if part is None else str(part) for part in (layer, step, branch, head))


def _dropped(whole: list[Kept], plan: list[Kept]) -> list[str]:
    """In words, what is not there."""
    told, there = [], {kept.layer.name: kept for kept in plan}
    gone = [one.layer.name for one in whole if one.layer.name not in there]
    told += [f"layers {', '.join(gone)}"] if gone else []
    lost: dict[str, list[str]] = {}
    for name, kept in there.items():
        layer = kept.layer
        for what, all_, held in (("steps", layer.steps, kept.steps), ("branches", layer.branches, kept.branches),
                                 ("heads", tuple(range(layer.heads)), kept.heads)):
            missing = [str(one) for one in all_ if one not in held]
            if missing:
                lost.setdefault(f"{what} {', '.join(missing)}", []).append(name)
        count = int(np.prod(layer.sides))
        if layer.keys is not None and len(kept.asked) < count:
            lost.setdefault(f"clicks on all but {len(kept.asked)} of {count} patches", []).append(name)
    for what, names in lost.items():
        told.append(what if len(names) == len(there) else f"{what} (of {', '.join(names)})")
    return told


def _page(views: Views, plan: list[Kept], view: View, sheets: dict[str, str], whole: list[Kept]) -> bytes:
    layers = [{**kept.layer.told(), "steps": list(kept.steps), "branches": list(kept.branches), "kept": list(kept.heads),
               "places": [list(side) for side in kept.places]} for kept in plan]
    dropped = _dropped(whole, plan)
    note = f"To keep this page small, it leaves out {'; '.join(dropped)}." if dropped else ""
    told = setup(views, layers, note)
    told["frames"] = [base64.b64encode(one).decode() for one in told["frames"]]
    told["colours"] = base64.b64encode(told["colours"]).decode()
    data = json.dumps({"setup": told, "view": {**view._asdict(), "id": 0}, "sheets": sheets, "hidden": HIDDEN})
    script = "".join((HERE / name).read_text(encoding="utf-8") for name in ("explorer.js", "explorer_page.js"))
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (HERE / "explorer.css").read_text(encoding="utf-8")
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; script-src 'sha256-{allowed}'; style-src 'unsafe-inline'; img-src data: blob:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(views.title or 'Attention')} · wanlab</title>
<style>{style}
body {{ margin: 0; padding: 20px 12px; background: #fff; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #101113; }} }}
.wx-explorer {{ margin: 0 auto; }}</style>
</head>
<body>
<main id="explorer"></main>
<script type="application/json" id="data">{data.replace('<', chr(92) + 'u003c')}</script>
<script type="module">{script}</script>
</body>
</html>
""".encode()
