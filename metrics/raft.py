"""Learned optical flow: RAFT (Teed & Deng 2020) through torchvision, its weights from a file, never downloaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from . import weights

LEAST = 128  # pixels: below it the last level of the correlation pyramid is empty
LAYOUTS = {"raft_large": "raft_large", "raft_things": "raft_large", "raft_small": "raft_small"}


@dataclass(frozen=True)
class Raft:
    """A `Flow`: `n c h w` in [0, 1] twice -> `n 2 h w` in pixels, on the network's device.

    name: stands in the brackets of a number's name; updates: of the recurrent unit.
    """

    name: str
    network: nn.Module = field(repr=False)
    updates: int = 12

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Frames of any size, one pair at a time: padded to a multiple of 8, border repeated, the padding cut off again.

        Raises:
            ValueError: a padded side below 128 pixels, or other shapes.
        """
        if first.shape != second.shape:
            raise ValueError(f"raft needs two frames of one shape, got {tuple(first.shape)} and {tuple(second.shape)}")
        height, width = first.shape[-2:]
        more_h, more_w = -height % 8, -width % 8
        if min(height + more_h, width + more_w) < LEAST:
            raise ValueError(f"raft needs frames of at least {LEAST} x {LEAST}, got {height} x {width}")
        place = next(self.network.parameters())
        edges = (more_w // 2, more_w - more_w // 2, more_h // 2, more_h - more_h // 2)
        pairs = zip(*(functional.pad(2 * x.to(place) - 1, edges, mode="replicate").split(1) for x in (first, second)), strict=True)
        flow = torch.cat([self.network(a, b, num_flow_updates=self.updates)[-1] for a, b in pairs])
        return flow[..., edges[2] : edges[2] + height, edges[0] : edges[0] + width]


def raft(
    name: str = "raft_large", given: str | Path | None = None, updates: int = 12, device: str | torch.device = "cpu"
) -> Raft:
    """RAFT with published weights.

    Args:
        name: raft_large or raft_small (torchvision's own training); raft_things: the authors' weights on FlyingChairs and
            FlyingThings in torchvision's layout, which VBench's dynamic degree uses with 20 updates.
        given: the file; None = the user's caches.
        updates: of the recurrent unit.
        device: where it goes.

    Raises:
        WeightsError: no file, a damaged one or one of another layout; the message says how to give it.
        ValueError: another name.
    """
    if name not in LAYOUTS:
        raise ValueError(f"no RAFT {name!r}; there are {', '.join(LAYOUTS)}")
    path = weights.locate(name, given)
    network = weights.fill(_blank(LAYOUTS[name]), weights.tensors(path), path)
    return Raft(f"{weights.signature(name, path)}|{updates}it", network.to(device), updates)


def random_raft(layout: str = "raft_small", seed: int = 0, updates: int = 2) -> Raft:
    """RAFT that was never trained, for tests; its name says so."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = _blank(layout)
    return Raft(f"random-{layout}|seed{seed}|{updates}it", network.eval().requires_grad_(False), updates)


def _blank(layout: str) -> nn.Module:
    from torchvision.models import optical_flow

    return getattr(optical_flow, layout)(weights=None)
