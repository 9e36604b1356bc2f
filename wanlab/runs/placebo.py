"""Placebos: the edits of a component, made at random sites of equal size outside of it, so that no effect can be seen too.

A component's effect is compared with the damage that as large a cut does anywhere. Each site of the component draws
another one that the same kind of edit could cut: in the same node of the graph, under the same clock, with the same
axes, and a part's output as that is (or not); where the other is larger, as many channels (or heads) of it as give the
same count of numbers. Nothing is drawn twice, nor from inside the component.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from wanlab.core.grammar import AXIS_OF
from wanlab.core.seeding import generator

SPLIT = ("heads", "channels")  # keywords of the axes along which a part of a site is drawn


@dataclass(frozen=True)
class Candidate:
    """A site that can be drawn, and how many of the positions on one axis (None: all of it)."""

    name: str
    keyword: str | None = None
    count: int = 0
    size: int = 0


def draw(pipe: Any, components: Sequence[str], number: int, seed: int) -> list[Any]:
    """The edits of one draw. The same pipeline, components, number and seed give the same edits.

    Raises LookupError for an unknown component, ValueError where a site of it has no match.
    """
    pairs = [(edit, site) for component in components for edit in pipe.ablate(component) for site in pipe.sites(edit.at)]
    own = [site for _, site in pairs]
    found = [(edit, site, _candidates(pipe, site, own)) for edit, site in pairs]
    chance = generator("placebo", *components, seed, number)
    used: set[str] = set()
    edits: dict[str, Any] = {}
    for edit, site, candidates in sorted(found, key=lambda row: len(row[2])):  # stable: those with little choice come first
        left = [one for one in candidates if one.name not in used]
        if not left:
            raise ValueError(_lonely(components, site, len(candidates)))
        one = left[int(torch.randint(len(left), (), generator=chance))]
        used.add(one.name)
        limits: dict[str, Any] = {}
        if one.keyword is not None:
            limits = {one.keyword: sorted(torch.randperm(one.size, generator=chance)[: one.count].tolist())}
        edits[site.name] = replace(edit, at=one.name, **limits)
    return [edits[site.name] for site in own]


def _candidates(pipe: Any, site: Any, own: Sequence[Any]) -> list[Candidate]:
    """The sites outside of `own` from which as many numbers can be cut as `site` has."""
    whole = {f"{stage}.out" for stage in pipe.node(pipe._owner(site.name)).stages}  # without it there is nothing to look at
    inside = {one.name for one in own} | {part for one in own if (part := one.name.rsplit(".", 1)[0]).count(".")}
    node, wanted = pipe._owner(site.name), math.prod(site.shape[1:])
    found = []
    for other in pipe.sites():
        alike = (other.axes, other.clock, other.bypass) == (site.axes, site.clock, site.bypass)
        if not alike or other.derived or other.name in whole or pipe._owner(other.name) != node:
            continue
        if any(other.name == name or other.name.startswith(f"{name}.") for name in inside):
            continue
        total = math.prod(other.shape[1:])
        if total == wanted:
            found.append(Candidate(other.name))
            continue
        keyword = next((word for word in SPLIT if AXIS_OF[word] in other.axes), None)
        size = other.size(AXIS_OF[keyword]) if keyword else 1
        if keyword and wanted < total and wanted * size % total == 0:
            found.append(Candidate(other.name, keyword, wanted * size // total, size))
    return found


def _lonely(components: Sequence[str], site: Any, candidates: int) -> str:
    """What is said of a site that has no match left."""
    size = " ".join(f"{axis}={length}" for axis, length in zip(site.axes[1:], site.shape[1:])) or "one number"
    why = f"all {candidates} that could are drawn already" if candidates else "of which as many numbers could be cut"
    return f"no placebo for {', '.join(components)}: {site.name} ({size}) has no other site of its kind in its node, {why}"
