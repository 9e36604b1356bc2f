"""The parts of the keys of attention: frames, text, padding, image, the rest; as a run announces how they stand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wanlab.core import Grid, clock
from wanlab.core.pattern import matches
from wanlab.nn.reads import HIDDEN, Call

MOMENTS = ("mass", "dt", "dy", "dx", "dt2", "dr2")


def key_site(site: str) -> str:
    """The site of the keys that belong to another site of the same attention."""
    return f"{site.rpartition('.')[0]}.k".removeprefix(".")


def key_grid(keys: int, site: str | None, known: Grid | None) -> Grid | None:
    """How the keys of the attention that has `site` stand: as the module knows, else as the run announced; None: on no grid."""
    grid_of = clock.plan().grid_of
    grid = known or (grid_of(key_site(site)) if grid_of is not None and site is not None else None)
    return None if grid is None else grid.check(key_site(site or "k"), keys)


@dataclass(frozen=True, eq=False)
class Parts:
    """Names of the parts, and which of them each key belongs to."""

    call: Call
    names: tuple[str, ...]
    ids: Tensor             # j; where the text stands: that of "text", of which padding is told apart when it is asked for
    text: int               # number of keys, the first ones, that are the prompt's

    @classmethod
    def of(cls, call: Call, site: str | None, known: Grid | None = None) -> Parts:
        """Of the keys of a call at a site. Where nothing was announced, all keys are one part."""
        grid, sites = key_grid(call.keys, site, known), clock.plan().text_sites
        told = site is not None and sites is not None and matches(sites, key_site(site))
        text = 0 if not told else call.keys if grid is None else grid.start
        names = ["text", "padding"] if text else []
        ids = torch.full((call.keys,), -1)
        ids[:text] = 0
        if grid is not None:
            frames = [f"frame {i}" for i in range(grid.frames)] if grid.of == "video" else [grid.of] * grid.frames
            first = len(names)
            names += list(dict.fromkeys(frames))
            at = torch.tensor([first + (i if grid.of == "video" else 0) for i in range(grid.frames)])
            ids[grid.tokens] = at.repeat_interleave(grid.height * grid.width)
        if (ids < 0).any():
            ids[ids < 0] = len(names)
            names.append("rest" if names else "all")
        return cls(call, tuple(names), ids, text)

    def groups(self) -> Tensor:
        """The part of each key, j; b j where rows are padded differently."""
        ids = self.ids.to(self.call.given[1].device)
        if not self.text:
            return ids
        padding = self._padding()
        padded = ids.repeat(len(padding), 1)
        padded[:, : self.text][padding] = 1
        return padded[0] if (padded == padded[:1]).all() else padded

    def _padding(self) -> Tensor:
        """Which of the text's keys are padding, b j: hidden, or alike to the last bit at the text's end."""
        k, bias = self.call.given[1][..., : self.text, :], self.call.bias
        alike = (k == k[..., -1:, :]).all(-1).all(1)
        run = alike.flip(-1).cumprod(-1).flip(-1).bool()
        padding = run & (run.sum(-1, keepdim=True) > 1)
        if bias is not None and bias.shape[-1] > 1:
            lowest = bias.amax((1, 2))                              # hidden from every head and query
            hidden = lowest < lowest.amax(-1, keepdim=True) - HIDDEN
            padding = padding | hidden[:, : self.text]
        return padding


def places(grid: Grid | None, tokens: int) -> Tensor:
    """Of each token, j 4: 1, t, y, x where it stands on the grid, else 0. From the middle; t in lengths of the video, y and x in
    widths of the frame."""
    found = torch.zeros(tokens, 4)
    if grid is not None:
        t, y, x = grid.centres().unbind(-1)
        found[grid.tokens] = torch.stack([torch.ones_like(t), t, y * grid.height / grid.width, x], -1).float()
    return found


def moment_columns(keys: Tensor) -> Tensor:
    """The values j 6 whose weighted sums `displaced` needs, of keys at `places` j 4: 1, t, y, x, t^2, y^2 + x^2."""
    _, t, y, x = keys.unbind(-1)
    return torch.stack([keys[:, 0], t, y, x, t**2, y**2 + x**2], -1)


def displaced(sums: Tensor, queries: Tensor) -> Tensor:
    """From the sums over keys (… n 6) to MOMENTS, relative to the queries at `places` n 4; a query that stands nowhere has none."""
    stands, t, y, x = queries.to(sums).unbind(-1)
    mass, st, sy, sx, stt, srr = sums.unbind(-1)
    dt2 = stt - 2 * t * st + t**2 * mass
    dr2 = srr - 2 * (y * sy + x * sx) + (y**2 + x**2) * mass
    moved = [mass, st - t * mass, sy - y * mass, sx - x * mass, dt2.clamp(min=0), dr2.clamp(min=0)]
    return torch.stack(moved, -1) * stands[..., None]
