"""Placebos: the edits of a component, made at random sites of equal size outside of it, so that no effect can be seen too.

A component's effect is compared with the damage that as large a cut does anywhere. Each site of the component draws
another one that the same kind of edit could cut: in the same node of the graph (in any, where the component takes all of
its own), under the same clock, with the same axes, and a part's output as that is (or not); where the other is larger, as
many channels (or heads) of it as give the same count of numbers. Nothing is drawn twice, and no two draws are the same.

What is drawn is neither a part of the component nor has it as a part. Whether it is follows from the lineage of the sites
(`core.lineage`): a site through whose cut nothing more is lost once the component is gone is a part of it, and a site whose
cut leaves no way from the component to the video has it as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from wanlab.core import Bypass, Zero
from wanlab.core.grammar import AXIS_OF
from wanlab.core.seeding import generator

SPLIT = ("heads", "channels")  # keywords of the axes along which a part of a site is drawn
TRIES = 20  # for each draw that is to differ from the others


@dataclass(frozen=True)
class Candidate:
    """A site that can be drawn, and how many of the positions on one axis (None: all of it)."""

    name: str
    keyword: str | None = None
    count: int = 0
    size: int = 0


@dataclass(frozen=True)
class Pool:
    """What can be drawn for one site; and how many more were alike, but a part of the component (`inside`) or around it."""

    candidates: Sequence[Candidate]
    inside: int = 0
    around: int = 0


def draw(pipe: Any, components: Sequence[str], number: int, seed: int) -> list[Any]:
    """The edits of one draw. The same pipeline, components, number and seed give the same edits.

    Raises LookupError for an unknown component, ValueError where a site of it has no match or there are not so many draws.
    """
    pairs = [(edit, site) for component in components for edit in pipe.ablate(component) for site in pipe.sites(edit.at)]
    bounds = Bounds(pipe, pairs)
    pools = [(edit, site, _pool(pipe, edit, site, bounds)) for edit, site in pairs]
    pools.sort(key=lambda row: len(row[2].candidates))  # stable: those with little choice come first
    made: list[list[Any]] = []
    for attempt in range(TRIES * (number + 1)):
        edits = _drawn(components, pools, bounds, generator("placebo", *components, seed, attempt))
        mine = [edits[site.name] for _, site in pairs]
        if mine not in made:
            made.append(mine)
        if len(made) > number:
            return mine
    sizes = ", ".join(f"{site.name}: {len(pool.candidates)}" for _, site, pool in pools)
    raise ValueError(
        f"no placebo {number} for {', '.join(components)}: {TRIES * (number + 1)} random draws gave {len(made)} that differ "
        f"(sites to choose from for {sizes}); ask for {len(made)} draws"
    )


class Bounds:
    """Where a component ends: which sites are parts of it, and which cuts take it with them."""

    def __init__(self, pipe: Any, pairs: Sequence[tuple[Any, Any]]) -> None:
        self.lineage = pipe.lineage()
        self.names = {site.name for _, site in pairs}
        self.known = self.lineage.read()
        self.outside = self.lineage.read({site.name: isinstance(edit, Bypass) for edit, site in pairs})

    def inside(self, name: str) -> bool:
        """Whether a site is of the component, or feeds nothing but it."""
        if name in self.known:
            return name not in self.outside
        return any(name.startswith(own.rsplit(".", 1)[0] + ".") for own in self.names)  # not in the lineage: by its module

    def around(self, edits: Sequence[Any]) -> bool:
        """Whether whole sites are cut so that some of the component no longer reaches the video."""
        cut = {edit.at: isinstance(edit, Bypass) for edit in edits if _whole(edit)}
        return bool(cut) and not self.names & self.known <= self.lineage.read(cut)


def _whole(edit: Any) -> bool:
    """Whether nothing of a site passes the edit."""
    return isinstance(edit, (Zero, Bypass)) and all(getattr(edit, keyword) is None for keyword in SPLIT)


def _drawn(components: Sequence[str], pools: Sequence[tuple[Any, Any, Pool]], bounds: Bounds, chance: Any) -> dict[str, Any]:
    """An edit for each site of the component, by its name."""
    edits: dict[str, Any] = {}
    for edit, site, pool in pools:
        used = {other.at for other in edits.values()}
        left = [one for one in pool.candidates if one.name not in used]
        while left:
            one = left.pop(int(torch.randint(len(left), (), generator=chance)))
            limits: dict[str, Any] = {}
            if one.keyword is not None:
                limits = {one.keyword: sorted(torch.randperm(one.size, generator=chance)[: one.count].tolist())}
            mine = replace(edit, at=one.name, **limits)
            if not bounds.around([*edits.values(), mine]):  # nor do several together
                edits[site.name] = mine
                break
        else:
            raise ValueError(_lonely(components, site, pool))
    return edits


def _pool(pipe: Any, edit: Any, site: Any, bounds: Bounds) -> Pool:
    """The sites outside of the component from which as many numbers can be cut as `site` has."""
    node = pipe._owner(site.name)
    pools: dict[bool, list[Candidate]] = {True: [], False: []}  # in the same node, elsewhere
    inside = around = 0
    for here, one in _alike(pipe, site, node):
        if one.name in bounds.names:
            continue
        if bounds.inside(one.name):
            inside += 1
        elif one.keyword is None and bounds.around([replace(edit, at=one.name)]):
            around += 1
        else:
            pools[here].append(one)
    return Pool(pools[True] or pools[False], inside, around)


def _alike(pipe: Any, site: Any, node: str) -> Iterator[tuple[bool, Candidate]]:
    """The sites of the kind of `site` that are large enough, and whether they are in `node`."""
    wanted = math.prod(site.shape[1:])
    whole = {f"{stage}.out" for one in pipe.nodes for stage in one.stages}  # without it there is nothing to look at
    for other in pipe.sites():
        alike = (other.axes, other.clock, other.bypass) == (site.axes, site.clock, site.bypass)
        owner = pipe._owner(other.name)
        if not alike or other.derived or other.name in whole or owner is None:
            continue
        total = math.prod(other.shape[1:])
        if total == wanted:
            yield owner == node, Candidate(other.name)
            continue
        keyword = next((word for word in SPLIT if AXIS_OF[word] in other.axes), None)
        size = other.size(AXIS_OF[keyword]) if keyword else 1
        if keyword and wanted < total and wanted * size % total == 0:
            yield owner == node, Candidate(other.name, keyword, wanted * size // total, size)


def _lonely(components: Sequence[str], site: Any, pool: Pool) -> str:
    """What is said of a site that has no match left."""
    size = " ".join(f"{axis}={length}" for axis, length in zip(site.axes[1:], site.shape[1:])) or "one number"
    counts = {"parts of it": pool.inside, "not to be cut without it": pool.around, "drawn already": len(pool.candidates)}
    of_them = ", ".join(f"{count} are {why}" for why, count in counts.items())
    alike = sum(counts.values())
    why = f"; of {alike} that are alike, {of_them}" if alike else ""
    return f"no placebo for {', '.join(components)}: outside of it no other site is like {site.name} ({size}){why}"
