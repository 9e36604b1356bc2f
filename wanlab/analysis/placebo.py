"""Placebos of patching: for each site of a place another one drawn at random, of which as many numbers are patched.

    places = [*patching.places(pipe, request, {"text": "text.{out,mask}"}), *placebo.places(pipe, "text.{out,mask}", draws=3)]
    patching.laid_out(contrast, places).run(metrics)

An effect that lies within those of its placebos has not been shown to be the place's own. Studies draw within a node, and cut
(`placebo:` in a study file); here draws are from everywhere else, so that what nothing in its node resembles has a placebo too.
Ours.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch

from wanlab.analysis.patching import EVERY, Place
from wanlab.core import Select, Site
from wanlab.core.seeding import generator
from wanlab.core.select import AXIS_OF

DIVIDED = ("channels", "units", "heads", "tokens", "keys", "frames")      # axes of which a part is drawn, the first that fits best


def places(pipe: Any, like: str, draws: int = 3, seed: int = 0, avoid: str = "") -> list[Place]:
    """One place for each draw, its `site` called "placebo 0", "placebo 1", ...

    like    a glob of sites: for each of them one is drawn, of which as many numbers are taken, to within a tenth: all of a site, or
            some positions of one axis
    avoid   a glob of sites that are not drawn either

    Never drawn: sites of the stages that `like` names, what is derived, what a stage hands on as a whole (`stage.out`, which all of
    its work passes), what does not run when a video is made, and no site twice in a draw. Equal arguments, equal places. Raises
    LookupError where there is nothing of such a size.
    """
    wanted = list(pipe.sites(like))
    stages = {site.name.split(".")[0] for site in wanted}
    left_out = set(pipe.sites(avoid).names) if avoid else set()
    ends = {f"{stage}.out" for node in pipe.nodes for stage in node.stages}
    run = [site for site in pipe.sites() if any(site.name.startswith(f"{stage}.") for node in pipe.nodes for stage in node.stages)]
    others = [site for site in run if not site.derived and site.shape is not None and site.name.split(".")[0] not in stages
              and site.name not in ends | left_out]
    found = []
    for number in range(draws):
        chance = generator("placebo of places", like, seed, number)
        used: set[str] = set()
        selects = tuple(_drawn(site, [one for one in others if one.name not in used], chance, used) for site in wanted)
        found.append(Place(selects, {"site": f"placebo {number}", "steps": EVERY}))
    return found


def _drawn(like: Site, others: list[Site], chance: torch.Generator, used: set[str]) -> Select:
    """One of the sites of which as many numbers can be taken as `like` has, and which of its positions."""
    wanted = prod(like.shape[1:])        # type: ignore[index]
    fitting = [(site, cut) for site in others if (cut := _cut(site, wanted)) is not None]
    if not fitting:
        raise LookupError(f"no placebo for {like.name}: no other site has {wanted} numbers, or a part of so many")
    site, (key, count, size) = fitting[int(torch.randint(len(fitting), (), generator=chance))]
    used.add(site.name)
    if count == size:
        return Select(site.name)
    return Select(site.name, **{key: sorted(torch.randperm(size, generator=chance)[:count].tolist())})


def _cut(site: Site, wanted: int) -> tuple[str, int, int] | None:
    """(keyword, positions, of how many) that take `wanted` numbers of a site, to within a tenth; None where nothing does."""
    total = prod(site.shape[1:])        # type: ignore[index]
    for key in DIVIDED:
        if AXIS_OF[key] in site.axes:
            size = site.size(AXIS_OF[key]) or 1
            count = round(wanted * size / total)
            if 1 <= count <= size and abs(count * total / size - wanted) <= 0.1 * wanted:
                return key, count, size
    return None
