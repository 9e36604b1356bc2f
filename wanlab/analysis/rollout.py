"""Attention rollout: where information at a place came from, through several layers (Abnar & Zuidema 2020, arXiv 2005.00928)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from xarray import DataArray

from wanlab.analysis.layout import AttentionError
from wanlab.analysis.map import AttentionMap


def rollout(maps: Sequence[AttentionMap], place: tuple[int, int, int], residual: float = 0.5) -> DataArray:
    """From maps in the order of the network, of self-attention on one grid: the sources of `place` after them (frame h w).

    Each layer counts as residual * I + (1 - residual) * (mean of the heads). The row of one place is carried back through the
    layers, each applied by one call of the kernel: no product of maps is formed, and memory does not grow with their size. What
    flows to tokens that stand nowhere (registers) is left out; 1 minus the sum says how much.
    AttentionError for a layer of another grid.
    """
    sides = maps[0].sides
    strange = [one.layer for one in maps if one.sides != sides or one.keys != sides]
    if strange:
        raise AttentionError(f"a rollout goes through self-attention on one grid, here {'x'.join(map(str, sides))}; not so: "
                             f"{', '.join(strange)}")
    flow = np.zeros(sides, np.float32)
    flow[place] = 1
    for one in reversed(maps):
        flow = residual * flow + (1 - residual) * one.flow(flow).mean(0)
    return DataArray(flow, dims=("frame", "h", "w"), name="rollout")
