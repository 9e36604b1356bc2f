"""What an explorer shows: a video, and of each layer, step, branch and head a map for every question about it, as bytes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

Place = tuple[int, int, int]        # frame, h, w
HIDDEN = 255                        # the byte of a patch that a query cannot attend to
TOP = 254                           # the byte of the highest value of a map


class View(NamedTuple):
    """One question: what a patch (`place`) attends to, or which patches attend to a `word`. head None: the mean of all."""

    layer: str
    step: int | None = None
    branch: str | None = None
    head: int | None = None
    place: Place | None = None
    word: str | None = None


class Map(NamedTuple):
    """A map as bytes, (frames h w) uint8: 0 to TOP from 0 to `high`, HIDDEN where nothing can be attended to."""

    values: np.ndarray
    high: float
    total: float        # of a place: the mass on the patches that are shown; of a word: the mean over patches

    @classmethod
    def of(cls, heat: np.ndarray, word: bool) -> Map:
        """From heat (frames h w), NaN where nothing can be attended to."""
        seen = ~np.isnan(heat)
        high = float(heat[seen].max(initial=0.0))
        scaled = np.floor(np.where(seen, heat, 0).clip(0) / (high or 1.0) * TOP + 0.5)
        held = heat[seen]
        total = float(held.mean() if word else held.sum()) if held.size else 0.0
        return cls(np.where(seen, scaled, HIDDEN).astype(np.uint8), high, total)


@dataclass(frozen=True)
class Layer:
    """An attention: heads, the moments that are held, and how its queries and keys stand (frames, height, width).

    keys     None: they stand nowhere in the video, and no patch can be asked what it attends to
    words    whether its keys carry the prompt
    image    whether the keys are patches of the conditioning image, and not of the video
    """

    name: str
    heads: int
    steps: tuple[int | None, ...]
    branches: tuple[str | None, ...]
    sides: Place
    keys: Place | None
    words: bool = False
    image: bool = False

    def told(self) -> dict[str, Any]:
        """As plain data."""
        return {"name": self.name, "heads": self.heads, "steps": list(self.steps), "branches": list(self.branches),
                "sides": list(self.sides), "keys": None if self.keys is None else list(self.keys), "words": self.words,
                "image": self.image}


@dataclass
class Views:
    """A video (f h w 3 in [0, 1]) with its attentions. `heat` answers a view: (head frames h w), of all heads where the view's is
    None, else of that one alone.

    words    the words of each branch's prompt, as chips
    title    shown above; it is not interpreted
    """

    video: np.ndarray
    layers: Sequence[Layer]
    heat: Callable[[View], np.ndarray]
    words: Mapping[str | None, Sequence[str]] = field(default_factory=dict)
    title: str = ""
    _asked: View | None = field(default=None, init=False, repr=False)
    _answered: np.ndarray = field(default_factory=lambda: np.empty(0), init=False, repr=False)

    def __post_init__(self) -> None:
        if self.video.ndim != 4 or self.video.shape[-1] != 3:
            raise ValueError(f"a video is f h w 3, got {self.video.shape}")
        if not self.layers:
            raise ValueError("an explorer needs at least one layer")

    @cached_property
    def named(self) -> dict[str, Layer]:
        """Layers by name."""
        return {layer.name: layer for layer in self.layers}

    def layer(self, name: str) -> Layer:
        """By name. LookupError lists them."""
        if name not in self.named:
            raise LookupError(f"no layer {name!r}; there are {', '.join(self.named)}")
        return self.named[name]

    def check(self, view: View) -> Layer:
        """The layer of a view. LookupError says what the explorer has in place of what the view asks for."""
        layer = self.layer(view.layer)
        for what, asked, held in (("step", view.step, layer.steps), ("branch", view.branch, layer.branches)):
            if asked not in held:
                raise LookupError(f"{view.layer} holds no {what} {asked!r}; it has {', '.join(map(str, held))}")
        if view.head is not None and not 0 <= view.head < layer.heads:
            raise LookupError(f"{view.layer} has {layer.heads} heads, no head {view.head}")
        if (view.place is None) == (view.word is None):
            raise LookupError("a view asks for a place or for a word")
        if view.word is not None:
            told = self.words.get(view.branch, ()) if layer.words else ()
            if not layer.words:
                raise LookupError(f"the keys of {view.layer} carry no words")
            if view.word not in told:
                raise LookupError(f"the prompt has no word {view.word!r}; it has: {' '.join(told) or 'none in this branch'}")
        elif layer.keys is None:
            raise LookupError(f"the keys of {view.layer} are words: ask for one")
        elif any(not 0 <= at < side for at, side in zip(view.place or (), layer.sides, strict=True)):
            raise LookupError(f"{view.layer} has {'x'.join(map(str, layer.sides))} patches (frames, height, width); "
                              f"{view.place} is outside")
        return layer

    def map(self, view: View) -> Map:
        """The answer to a view, as bytes with their scale."""
        self.check(view)
        if self._asked not in (view, view._replace(head=None)):         # all heads of a question have the answer of each
            self._answered, self._asked = np.asarray(self.heat(view)), view
        of_all = self._asked is not None and self._asked.head is None
        heat = self._answered.mean(0, dtype=np.float64) if view.head is None else self._answered[view.head if of_all else 0]
        return Map.of(heat.astype(np.float64, copy=False), view.word is not None)

    def start(self) -> View:
        """The view that is shown first: of the first layer that sees the video, its middle step, the middle of its middle frame."""
        layer = next((one for one in self.layers if one.keys is not None and not one.image), self.layers[0])
        moment = View(layer.name, layer.steps[len(layer.steps) // 2], layer.branches[0])
        if layer.keys is None:
            return moment._replace(word=next(iter(self.words.get(moment.branch, ())), None))
        frames, height, width = layer.sides
        return moment._replace(place=(frames // 2, height // 2, width // 2))


def latent_frame(frame: int, video: int, frames: int) -> int:
    """Which of `frames` frames of a map a frame of the video belongs to; causal where they divide so (81 to 21), else even."""
    if frames <= 1:
        return 0
    if (video - 1) % (frames - 1) == 0:
        return -(-frame * (frames - 1) // (video - 1))
    return frame * frames // video


def rgba(one: Map, scale: float, colours: np.ndarray) -> np.ndarray:
    """The pixels of an overlay, (frames h w 4) uint8: as the page paints them. colours: 256 x 3 uint8.

    scale: the value at the upper end of the colours; higher ones have the last. Alpha grows with the value; HIDDEN is clear.
    """
    share = np.minimum(1.0, one.values / TOP * (one.high / scale if scale else 0.0))
    painted = np.empty((*one.values.shape, 4), np.uint8)
    painted[..., :3] = colours[np.floor(share * 255 + 0.5).astype(int)]
    painted[..., 3] = np.floor(255 * (0.2 + 0.65 * share) + 0.5)
    painted[one.values == HIDDEN] = 0
    return painted


def colours(name: str = "inferno") -> np.ndarray:
    """256 colours of a map of matplotlib's, uint8."""
    from matplotlib import colormaps

    return (colormaps[name](np.arange(256))[:, :3] * 255 + 0.5).astype(np.uint8)
