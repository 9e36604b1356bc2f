"""From a selection to the part of a tensor that it means: a boolean region to edit, or a smaller tensor to keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wanlab.core.clock import Plan
from wanlab.core.index import positions
from wanlab.core.pattern import matches
from wanlab.core.select import AXIS_OF, Select, SelectionError
from wanlab.core.site import Site


def check(select: Select, site: Site, plan: Plan) -> None:
    """Whether the selection fits a site, as far as is known before a run: axes always, sizes and steps where known."""
    if select.words is not None and plan.tokens_of is not None:
        _carries_text(site, plan)
    for key, axis in _limits(select, site):
        if site.shape is not None and getattr(select, key, None) is not None and key in AXIS_OF and key != "rows":
            positions(getattr(select, key), site.shape[site.axes.index(axis)], f"{site.name}: {key}")
    if select.rows is not None and plan.seeds is not None:
        positions(select.rows, len(plan.seeds), "rows")
    if select.steps is not None and plan.steps is not None:
        positions(select.steps, plan.steps, "steps")
    if select.branch is not None and plan.branches is not None:
        for branch in select.branch:
            if branch not in plan.branches:
                raise SelectionError(f"no branch {branch!r} in this run; it has {', '.join(plan.branches) or 'none'}")
    if site.clock is not None:
        for what, part in (("steps", "step"), ("sigma", "step"), ("branch", "branch")):
            if getattr(select, what) is not None and part not in site.clock:
                raise SelectionError(f"{site.name} fires outside any {part}, so {what}= cannot limit it: leave it out")


def region(select: Select, site: Site, x: Tensor, plan: Plan) -> Tensor | None:
    """The part of `x` that is meant: a boolean tensor that broadcasts to `x`; None is all of it."""
    found: Tensor | None = None
    for key, axis in _limits(select, site):
        at = site.axes.index(axis)
        if key == "words":
            part = _words(select.words, site, x, plan)
        elif key == "mask":
            part = _space(select.mask, site, x)
        else:
            line = torch.zeros(x.shape[at], dtype=torch.bool)
            line[positions(getattr(select, key), x.shape[at], f"{site.name}: {key}")] = True
            part = _along(line, (at,), x.ndim)
        found = part if found is None else found & part
    return None if found is None else found.to(x.device)


def narrow(select: Select, site: Site, x: Tensor, plan: Plan) -> Tensor:
    """`x` cut to the selected positions of each axis; see `kept_positions`."""
    for axis, kept in kept_positions(select, site, x, plan).items():
        x = x.index_select(site.axes.index(axis), torch.tensor(kept, device=x.device))
    return x


def kept_positions(select: Select, site: Site, x: Tensor, plan: Plan) -> dict[str, list[int]]:
    """The positions that a capture keeps, for each axis that is limited. `x` may be a tensor without values.

    A mask cannot be cut to; words must agree in all rows; several limits of one axis keep what all of them keep.
    """
    found: dict[str, list[int]] = {}
    if select.mask is not None:
        raise SelectionError(f"{site.name}: a capture cannot be limited by a mask; capture all and mask the record")
    for key, axis in _limits(select, site):
        at = site.axes.index(axis)
        if key == "words":
            _carries_text(site, plan)
            per_row = {tuple(_tokens(select.words, row, plan)) for row in found.get("b", range(_rows(site, x)))}
            if len(per_row) > 1:
                raise SelectionError(f"{site.name}: the words {', '.join(select.words)} stand at different tokens in "
                                     "the rows of this batch; capture all tokens, or one row")
            kept = list(per_row.pop())
        else:
            kept = positions(getattr(select, key), x.shape[at], f"{site.name}: {key}")
        found[axis] = [one for one in found.get(axis, kept) if one in kept]
        if not found[axis]:
            raise SelectionError(f"{site.name}: the limits of axis {axis} have no position in common")
    return found


def _limits(select: Select, site: Site) -> list[tuple[str, str]]:
    """The limits that are given, each with its axis; a limit on an axis that the site does not have raises."""
    given = [(key, axis) for key, axis in AXIS_OF.items() if getattr(select, key) is not None]
    if select.words is not None:
        given.append(("words", "j" if "j" in site.axes else "n"))
    if select.mask is not None:
        given += [("mask", "h")] if "w" in site.axes else [("mask", "w")]
    for key, axis in given:
        if axis not in site.axes:
            has = ", ".join(other for other, letter in AXIS_OF.items() if letter in site.axes)
            raise SelectionError(f"{site.name} has axes '{' '.join(site.axes)}' and no axis {axis}, so {key}= cannot "
                                 f"limit it; it can be limited by: {has or 'nothing'}")
    return given


def _along(values: Tensor, at: Sequence[int], ndim: int) -> Tensor:
    """Spread `values`, whose axes belong at the increasing places `at`, to `ndim` axes of which the others are 1."""
    shape = [1] * ndim
    for place, size in zip(at, values.shape, strict=True):
        shape[place] = size
    return values.reshape(shape)


def _rows(site: Site, x: Tensor) -> int:
    return x.shape[site.axes.index("b")] if "b" in site.axes else 1


def _tokens(words: Sequence[str], row: int, plan: Plan) -> list[int]:
    return sorted({token for word in words for token in plan.tokens_of(word, row)})


def _carries_text(site: Site, plan: Plan) -> None:
    if plan.tokens_of is None:
        raise SelectionError("words= is no use here: nothing knows the prompt's words; announce tokens_of, or use "
                             "tokens= or keys=")
    if plan.text_sites is None:
        raise SelectionError("words= needs to know which sites carry the prompt's tokens: announce text_sites")
    if not matches(plan.text_sites, site.name):
        raise SelectionError(f"the tokens of {site.name} are not the prompt's, so words= cannot limit it; those of "
                             f"{plan.text_sites} are")


def _words(words: Sequence[str], site: Site, x: Tensor, plan: Plan) -> Tensor:
    _carries_text(site, plan)
    at = site.axes.index("j" if "j" in site.axes else "n")
    part = torch.zeros(_rows(site, x), x.shape[at], dtype=torch.bool)
    for row in range(len(part)):
        tokens = _tokens(words, row, plan)
        if any(token >= x.shape[at] for token in tokens):
            raise SelectionError(f"{site.name}: the words {', '.join(words)} stand at tokens {tokens}, but the site "
                                 f"has only {x.shape[at]}")
        part[row, tokens] = True
    if "b" not in site.axes:
        return _along(part[0], (at,), x.ndim)
    return _along(part, (site.axes.index("b"), at), x.ndim)         # b stands before every other axis of a site


def _space(mask: tuple, site: Site, x: Tensor) -> Tensor:
    """The mask at the site's resolution: a position is inside where at least half of it is."""
    h, w = site.axes.index("h"), site.axes.index("w")
    asked = torch.tensor(mask, dtype=torch.float32)
    batched = asked.ndim == 3
    if batched and len(asked) != _rows(site, x):
        raise SelectionError(f"{site.name}: the mask has {len(asked)} rows and the batch {_rows(site, x)}")
    asked = asked if batched else asked[None]
    size = (x.shape[h], x.shape[w])
    sized = torch.nn.functional.interpolate(asked[:, None], size, mode="area")[:, 0] >= 0.5
    if asked.any() and not sized.any():
        raise SelectionError(f"{site.name}: nothing is left of the mask at {size[0]}x{size[1]}")
    return _along(sized, (site.axes.index("b"), h, w), x.ndim) if batched else _along(sized[0], (h, w), x.ndim)
