"""The map of one attention at one moment, kept as queries, keys and log-sum-exp: any part of it is computed on demand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
import torch
from xarray import DataArray

from wanlab.analysis.layout import AttentionError
from wanlab.core import Entry, Grid, Record
from wanlab.core.firing import Key
from wanlab.nn.reads import Call

KEPT = ("q", "k", "lse", "bias")
Place = tuple[int, int, int]        # frame, h, w


@dataclass(frozen=True)
class Side:
    """How the queries or the keys of a map stand: axes with sizes before the heads and after them, and the grids of tokens."""

    lead: dict[str, int]
    own: dict[str, int]
    grids: dict[str, Grid]

    def find(self, f: np.ndarray, h: np.ndarray, w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Number of the call, and of the token in it, at each place; -1 where no token stands."""
        at, stands = {"f": f, "h": h, "w": w}, np.ones(np.shape(f), bool)
        for axis, grid in self.grids.items():
            frame = 0 if "f" in self.lead or "f" in self.own or grid.frames == 1 else f
            row, column = (0, 0) if frames_alone(grid) else (h, w)
            stands &= (frame < grid.frames) & (row < grid.height) & (column < grid.width)
            at[axis] = grid.start + (frame * grid.height + row) * grid.width + column
        call, token = _number(self.lead, at, stands), _number(self.own, at, stands)
        return np.where(stands, call, -1), np.where(stands, token, -1)

    def index(self, sides: Place) -> tuple[np.ndarray, np.ndarray]:
        """Calls and tokens of all places (frames h w); -1 where no token stands."""
        return self.find(*np.indices(sides))


def frames_alone(grid: Grid) -> bool:
    """Whether the tokens of a grid are frames, without height and width."""
    return grid.height == grid.width == 1 < grid.frames


def _number(sizes: dict[str, int], at: dict[str, np.ndarray], stands: np.ndarray) -> np.ndarray:
    number = np.zeros_like(stands, int)
    for axis, size in sizes.items():
        place = np.asarray(at.get(axis, 0))
        outside = stands & ((place < 0) | (place >= size))
        if outside.any():
            raise AttentionError(f"{axis}={np.broadcast_to(place, stands.shape)[outside][0]} is outside: there are {size} "
                                 f"(0 to {size - 1})")
        number = number * size + place
    return number


class AttentionMap:
    """Lazily: rows, frame pairs, columns. Heat maps are (head frame h w); places that a query cannot attend to are NaN.

    sides: frames, height and width over which queries stand; `keys` those of the keys (None: they stand nowhere, as words).
    """

    def __init__(self, layer: str, call: Call, queries: Side, keys: Side, sides: Place, key_sides: Place | None) -> None:
        self.layer, self.call, self.sides, self.keys = layer, call, sides, key_sides
        self._queries, self._keys = queries, keys

    @classmethod
    def of(cls, pipe: Any, record: Record, layer: str, step: int | None, branch: str | None, row: int) -> AttentionMap:
        """From a record that holds KEPT of a layer. AttentionError where the moment is not held, or its map was edited."""
        kept = {read: _one(record, f"{layer}.{read}", step, branch) for read in KEPT}
        lse = kept["lse"]
        if not torch.isfinite(lse.tensor).all():
            raise AttentionError(f"{layer}: an edit put another map in the place of the model's; capture its pattern instead")
        folded = {}
        for read, entry in kept.items():
            at = entry.axes.index("b")
            x = entry.tensor.select(at, row if entry.tensor.shape[at] > 1 else 0)
            axes = [axis for axis in entry.axes if axis != "b"]
            lead = prod(x.shape[: axes.index("k")])
            own = {"q": 1, "k": 1, "lse": 0, "bias": 1}[read]
            folded[read] = x.reshape(lead, x.shape[axes.index("k")], -1, *x.shape[x.ndim - own:])
            if read == "lse":
                folded[read] = x.reshape(lead, x.shape[axes.index("k")], -1)
        call = Call(folded["q"], folded["k"], folded["k"], folded["bias"], float(lse.coords["scale"]), lse=folded["lse"])
        grids = {"n": pipe.grid_of(f"{layer}.q"), "j": pipe.grid_of(f"{layer}.k")}
        queries, keys = _side(kept["q"], grids), _side(kept["k"], grids)
        return cls(layer, call, queries, keys, *_extents(queries, keys))

    @classmethod
    def of_pattern(cls, pipe: Any, record: Record, layer: str, step: int | None, branch: str | None, row: int) -> AttentionMap:
        """From a record that holds a layer's `pattern`. AttentionError where the moment is not held, or only a part of it."""
        entry = _one(record, f"{layer}.pattern", step, branch)
        part = [axis for axis in entry.axes if axis in entry.full and entry.sizes[axis] < entry.full[axis] and axis != "b"]
        if part:
            raise AttentionError(f"{layer}.pattern was captured in part (axes {', '.join(part)}): capture it without limits in "
                                 "brackets")
        axes, at = [axis for axis in entry.axes if axis != "b"], entry.axes.index("b")
        x = entry.tensor.select(at, row if entry.tensor.shape[at] > 1 else 0)
        lead, sizes = axes[: axes.index("k")], entry.sizes
        dense = x.reshape(prod(sizes[axis] for axis in lead), sizes["k"], -1, sizes["j"])
        call = Call(dense[..., :1], dense[:, :, :1].transpose(-1, -2), dense[:, :, :1].transpose(-1, -2))
        call.dense = dense
        grids = {axis: grid for axis, name in (("n", "q"), ("j", "k")) if (grid := pipe.grid_of(f"{layer}.{name}")) is not None}

        def side(own: list[str]) -> Side:
            held = {axis: sizes[axis] for axis in own}
            sized = {axis: sizes[axis] for axis in lead}
            return Side(sized, held, {axis: grid for axis, grid in grids.items() if axis in {**sized, **held}})

        queries, keys = side([axis for axis in axes[axes.index("k") + 1:] if axis != "j"]), side(["j"])
        return cls(layer, call, queries, keys, *_extents(queries, keys))

    @property
    def heads(self) -> int:
        """Number of heads."""
        return self.call.given[0].shape[1]

    def row(self, frame: int = 0, h: int = 0, w: int = 0, heads: Sequence[int] | None = None) -> DataArray:
        """What the patch at (frame, h, w) attends to in every frame: (head frame h w). heads: of these alone."""
        return self.rows([(frame, h, w)], heads).isel(query=0, drop=True)

    def rows(self, places: Sequence[Place], heads: Sequence[int] | None = None) -> DataArray:
        """The same of several patches: (query head frame h w). AttentionError where the keys stand nowhere in the video."""
        if self.keys is None:
            raise AttentionError(f"the keys of {self.layer} stand nowhere in the video: ask for columns()")
        heat = np.empty((len(places), self.heads if heads is None else len(heads), *self.keys), np.float32)
        for i, place in enumerate(places):
            self._heat(place, heads, heat[i])
        coords = {} if heads is None else {"head": list(heads)}
        return DataArray(heat, dims=("query", "head", "frame", "h", "w"), coords=coords, name=self.layer)

    def _heat(self, place: Place, heads: Sequence[int] | None, out: np.ndarray) -> None:
        if any(not 0 <= at < side for at, side in zip(place, self.sides, strict=True)):
            raise AttentionError(f"{self.layer} has {'x'.join(map(str, self.sides))} queries (frames, height, width); "
                                 f"{place} is outside")
        batch, row = (int(index) for index in self._queries.find(*map(np.asarray, place)))
        if row < 0:
            raise AttentionError(f"no query of {self.layer} stands at {place}")
        line = self.call.entries(rows=[row], heads=heads, batch=[batch])[0, :, 0].numpy()      # k j
        batches, tokens = self.key_index
        np.take(line, tokens, axis=1, out=out, mode="clip")
        seen = (tokens >= 0) & ((batches == batch) | self._of_image)         # an image's keys are every call's
        if not seen.all():
            out[:, ~seen] = np.nan

    @cached_property
    def query_index(self) -> tuple[np.ndarray, np.ndarray]:
        """The call and the row of the query at each place."""
        return self._queries.index(self.sides)

    @cached_property
    def key_index(self) -> tuple[np.ndarray, np.ndarray]:
        """The call and the number of the key at each place of the keys."""
        return self._keys.index(self.keys or (1, 1, 1))

    @property
    def _of_image(self) -> bool:
        grid = self._keys.grids.get("j")
        return grid is not None and grid.of == "image"

    def pair(self, frame: int, to: int) -> DataArray:
        """From every patch of one frame to every patch of another: (head h w to_h to_w); no other part of the map is computed.

        AttentionError for a frame outside, and where the keys stand nowhere.
        """
        if self.keys is None:
            raise AttentionError(f"the keys of {self.layer} stand nowhere in the video: ask for columns()")
        for what, at, side in (("queries", frame, self.sides), ("keys", to, self.keys)):
            if not 0 <= at < side[0]:
                raise AttentionError(f"the {what} of {self.layer} stand in {side[0]} frames (0 to {side[0] - 1}); {at} is outside")
        calls, rows = (one[frame].ravel() for one in self.query_index)
        batches, tokens = (one[to].ravel() for one in self.key_index)
        heat = np.full((self.heads, len(rows), len(tokens)), np.nan, np.float32)
        for batch in np.unique(calls[rows >= 0]):
            asking = np.flatnonzero((calls == batch) & (rows >= 0))
            seen = np.flatnonzero((tokens >= 0) & ((batches == batch) | self._of_image))
            if len(seen):
                part = self.call.entries(rows[asking].tolist(), tokens[seen].tolist(), batch=[int(batch)])[0]   # k n j
                heat[:, asking[:, None], seen] = part.numpy()
        heat = heat.reshape(self.heads, *self.sides[1:], *self.keys[1:])
        return DataArray(heat, dims=("head", "h", "w", "to_h", "to_w"), name=self.layer)

    def columns(self, keys: Sequence[int], heads: Sequence[int] | None = None) -> DataArray:
        """How much every patch attends to some keys, by number: (head frame h w key). heads: of these alone."""
        values, (batches, rows) = self.call.entries(columns=keys, heads=heads).numpy(), self.query_index    # calls k n j
        heat = np.full((values.shape[1], *self.sides, len(keys)), np.nan, np.float32)
        stands = rows >= 0
        heat[:, stands] = values[batches[stands], :, rows[stands]].swapaxes(0, 1)
        coords = {"key": list(keys), **({} if heads is None else {"head": list(heads)})}
        return DataArray(heat, dims=("head", "frame", "h", "w", "key"), coords=coords, name=self.layer)

    def flow(self, weights: np.ndarray) -> np.ndarray:
        """Where weights of the patches (frames h w) flow in one application of the map: (head frames h w) of the keys.

        The sum over heads is apart; what flows to keys that stand nowhere is left out.
        """
        batches, rows = self.query_index
        spread = torch.zeros(len(self.call.given[0]), 1, self.call.rows, 1)
        stands = rows >= 0
        spread[batches[stands], 0, rows[stands], 0] = torch.as_tensor(weights[stands], dtype=torch.float32)
        flowed = self.call.flow(spread.expand(-1, self.heads, -1, -1))[..., 0].numpy()          # calls k j
        at, tokens = self.key_index
        flowed = flowed.sum(0, keepdims=True).repeat(len(flowed), 0) if self._of_image else flowed
        out = np.zeros((self.heads, *tokens.shape), np.float32)
        out[:, tokens >= 0] = flowed[at[tokens >= 0], :, tokens[tokens >= 0]].T
        return out

    def follow(self, mask: Any) -> DataArray:
        """Of the attention from a thing in each frame, how much goes to the thing in each frame: (head frame to).

        mask: frames h w of the keys' grid, boolean (a point is a mask of one place). A frame without the thing is NaN.
        AttentionError for a mask of another grid.
        """
        mask = np.asarray(mask, bool)
        if mask.shape != self.sides or self.keys != self.sides:
            raise AttentionError(f"to follow a thing takes a mask of {'x'.join(map(str, self.sides))} (frames, height, width) and "
                                 f"keys that stand there too; the mask is {'x'.join(map(str, mask.shape))}")
        found = np.full((self.heads, len(mask), len(mask)), np.nan, np.float32)
        for frame in range(len(mask)):
            places = [(frame, int(h), int(w)) for h, w in np.argwhere(mask[frame])]
            if places:
                heat = np.nan_to_num(self.rows(places).values)
                found[:, frame] = (heat * mask).sum((-2, -1)).mean(0)
        found[:, :, ~mask.any((1, 2))] = np.nan
        return DataArray(found, dims=("head", "frame", "to"), name=self.layer)


def points(track: Any, sides: Place) -> np.ndarray:
    """A mask (frames h w) from one point (x, y) in each frame, fractions of width and height; outside the frame nothing."""
    mask = np.zeros(sides, bool)
    for frame, (x, y) in enumerate(np.asarray(track, float)):
        if 0 <= x < 1 and 0 <= y < 1:
            mask[frame, int(y * sides[1]), int(x * sides[2])] = True
    return mask


def _one(record: Record, site: str, step: int | None, branch: str | None) -> Entry:
    keys = [key for key in record.find(site) if key.fits(Key(site, step, branch))]
    if len(keys) != 1:
        from wanlab.core.firing import moments

        raise AttentionError(f"{site} is held for {moments(record.find(site))}: say which step and branch")
    return record.entry(keys[0])


def _side(entry: Entry, grids: dict[str, Grid | None]) -> Side:
    axes = [axis for axis in entry.axes if axis != "b"]
    sizes, cut = entry.sizes, axes.index("k")
    lead, own = ({axis: sizes[axis] for axis in part} for part in (axes[:cut], [axis for axis in axes[cut + 1:] if axis != "d"]))
    return Side(lead, own, {axis: grid for axis, grid in grids.items() if grid is not None and axis in {**lead, **own}})


def _extents(queries: Side, keys: Side) -> tuple[Place, Place | None]:
    """Frames, height and width over which queries and keys stand, all calls together."""
    whole = _extent(queries) or (1, 1, queries.own.get("n", 1))
    grid = keys.grids.get("j")
    if grid is not None and grid.of == "image":
        return whole, grid.sides
    if "j" in keys.own and grid is None:
        return whole, None
    return whole, _extent(keys)


def _extent(side: Side) -> Place | None:
    sizes, stands = {**side.lead, **side.own}, [grid.sides for grid in side.grids.values()]
    if not stands and not {"f", "h", "w"} & set(sizes):
        return None
    longest = [max([sizes.get(axis, 1), *(grid[i] for grid in stands)]) for i, axis in enumerate("fhw")]
    return longest[0], longest[1], longest[2]
