"""From entries of a record to labelled arrays in the video: step, branch, row, head, frame, h, w."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import xarray
from xarray import DataArray

from wanlab.core import Entry, Grid
from wanlab.core.select import AXIS_OF

# What each axis is called in tables and arrays.
NAMES = {"s": "step", "b": "row", "k": "head", "f": "frame", "h": "h", "w": "w", "n": "token", "j": "key", "m": "slot",
         "c": "channel", "d": "unit", "g": "group", "p": "part", "u": "moment", "q": "quantile"}
SINGLE = {keyword: NAMES[axis] for keyword, axis in AXIS_OF.items()}        # keyword of a limit -> the name of one such position
ORDER = ("step", "branch", "row", "layer", "head", "frame", "h", "w", "token", "part", "to", "moment", "key", "word", "channel",
         "unit")


class AttentionError(LookupError):
    """A question about attention that what was read cannot answer; says what can."""

    def __str__(self) -> str:
        return str(self.args[0]) if self.args else ""


def labelled(entry: Entry, grid: Grid | None, **names: str) -> DataArray:
    """An entry as an array with named dimensions, its tokens (axis n) on their grid: frame, h and w where they are not there yet.

    Tokens that stand nowhere on the grid (registers) are left out; without a grid the dimension is `token`. A step or branch
    that all values have in common is a dimension of 1. names: further axes by letter.
    """
    array = entry.to_xarray()
    for axis, name in (("part", "p"), ("moment", "u")):
        if axis in array.coords and name in array.dims:
            array = array.swap_dims({name: axis}).drop_vars(name, errors="ignore")
    letters = {**NAMES, "n": "n", **names}         # tokens get their places below
    array = array.rename({axis: letters[axis] for axis in array.dims if axis in letters and letters[axis] != axis})
    for name in ("branch", "step"):
        if name in array.coords and name not in array.dims:
            array = array.expand_dims(name)
    if "n" in array.dims:
        array = _on_grid(array, grid)
    return array.transpose(*(name for name in ORDER if name in array.dims), ...)


def as_tokens(entry: Entry) -> Entry:
    """Keys or values of self-attention with the axis of its queries: they stand as those do."""
    def renamed(axes: tuple[str, ...]) -> tuple[str, ...]:
        return tuple("n" if axis == "j" else axis for axis in axes)

    labels = {name: label._replace(axes=renamed(label.axes)) for name, label in entry.labels.items()}
    coords, full = ({"n" if axis == "j" else axis: at for axis, at in one.items()} for one in (entry.coords, entry.full))
    return replace(entry, axes=renamed(entry.axes), coords=coords, labels=labels, full=full)


def _on_grid(array: DataArray, grid: Grid | None) -> DataArray:
    if grid is None:
        return array.rename(n="token")
    there = "frame" in array.dims or grid.frames == 1
    sides = dict(zip(("h", "w") if there else ("frame", "h", "w"), grid.sides[1:] if there else grid.sides, strict=True))
    if there and grid.frames > 1:
        raise AttentionError(f"{array.name} has an axis of frames, and tokens that are said to stand in {grid.frames} frames")
    at = array.dims.index("n")
    if grid.tokens.stop > array.sizes["n"]:
        raise AttentionError(f"{array.name} has {array.sizes['n']} tokens, which do not stand on {'x'.join(map(str, grid.sides))}")
    values = array.values.take(range(grid.tokens.start, grid.tokens.stop), at)
    values = values.reshape(*values.shape[:at], *sides.values(), *values.shape[at + 1:])
    dims = [*array.dims[:at], *sides, *array.dims[at + 1:]]
    coords: dict[Any, Any] = {name: one for name, one in array.coords.items() if "n" not in one.dims}
    return DataArray(values, dims=dims, coords=coords, name=array.name)


def layered(arrays: dict[str, DataArray]) -> DataArray:
    """Arrays of several layers side by side, dimension `layer`; of layers with fewer heads the others are NaN.

    AttentionError for layers on different grids.
    """
    shapes = {name: tuple(array.sizes.get(axis, 0) for axis in ("frame", "h", "w")) for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
        raise AttentionError(f"these layers stand on different grids ({told}): name layers of one, at='...', or say size=(h, w)")
    joined: DataArray = xarray.concat(list(arrays.values()), "layer", join="outer", coords="minimal", compat="override")
    joined = joined.assign_coords(layer=list(arrays))
    return joined.transpose(*(name for name in ORDER if name in joined.dims), ...)


def resized(array: DataArray, size: tuple[int, int]) -> DataArray:
    """The array with h and w of another size (bilinear; smaller: the mean of what falls together)."""
    import torch
    import torch.nn.functional as F

    moved = array.transpose(..., "h", "w")
    flat = torch.from_numpy(np.ascontiguousarray(moved.values, dtype=np.float32)).reshape(-1, 1, *moved.shape[-2:])
    smaller = size[0] <= moved.shape[-2] and size[1] <= moved.shape[-1]
    done = F.interpolate(flat, size, mode="area") if smaller else F.interpolate(flat, size, mode="bilinear", align_corners=False)
    coords = {name: one for name, one in moved.coords.items() if not {"h", "w"} & set(one.dims)}
    whole = DataArray(done.reshape(*moved.shape[:-2], *size).numpy(), dims=moved.dims, coords=coords, name=array.name)
    return whole.transpose(*array.dims)
