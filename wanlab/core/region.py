"""From a selection to the part of a tensor that it means: a boolean region to edit, or a smaller tensor to keep."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from wanlab.core.clock import Plan, Tick
from wanlab.core.grid import Grid
from wanlab.core.index import positions
from wanlab.core.lazy import Lazy
from wanlab.core.mask import Mask, MaskError
from wanlab.core.pattern import matches
from wanlab.core.select import AXIS_OF, Select, SelectionError
from wanlab.core.site import Site


def check(select: Select, site: Site, plan: Plan) -> None:
    """Whether the selection fits a site, as far as is known before a run: axes always, sizes and steps where known."""
    if select.words is not None and plan.tokens_of is not None:
        _check_words(select, site, plan)
    if select.mask is not None:
        _check_mask(select.mask, site, plan)
    for key, axis in _limits(select, site):
        if site.shape is not None and key in AXIS_OF and key != "rows":
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


def moments(select: Select, site: Site, plan: Plan) -> list[Tick] | None:
    """When the selection is due at the site; None where that is not known before the run (as of a range of sigma)."""
    if site.clock is None or select.sigma is not None:
        return None
    steps, branches = ("step" in site.clock, plan.steps), ("branch" in site.clock, plan.branches)
    if any(has and told is None for has, told in (steps, branches)):
        return None
    ticks = [Tick(step, None, branch) for step in (plan.due_at(site.name) if steps[0] else [None])
             for branch in (plan.branches or () if branches[0] else [None])]
    return [tick for tick in ticks if select.acts(tick, plan, site.name)]


def region(select: Select, site: Site, x: Tensor, plan: Plan) -> Tensor | None:
    """The part of `x` that is meant: a boolean tensor that broadcasts to `x`; None is all of it."""
    found: Tensor | None = None
    for key, axis in _limits(select, site):
        at = site.axes.index(axis)
        if key == "words":
            part = _words(select, site, x, plan)
        elif key == "mask":
            part = _space(select.mask, site, x, plan)
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


def kept_positions(select: Select, site: Site, x: Tensor | Lazy, plan: Plan) -> dict[str, list[int]]:
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
        given.append(("mask", "n" if "n" in site.axes else "w" if "h" in site.axes else "h"))
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


def _rows(site: Site, x: Tensor | Lazy) -> int:
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


def _check_words(select: Select, site: Site, plan: Plan) -> None:
    _carries_text(site, plan)
    axis = "j" if "j" in site.axes else "n"
    rows = len(plan.seeds or ())
    for row in range(rows) if select.rows is None else positions(select.rows, rows, "rows") if rows else ():
        _tokens_in(site.size(axis) if axis in site.axes else None, select.words, site, row, plan)


def _tokens_in(size: int | None, words: Sequence[str], site: Site, row: int, plan: Plan) -> list[int]:
    tokens = _tokens(words, row, plan)
    if size is not None and any(token >= size for token in tokens):
        raise SelectionError(f"{site.name}: the words {', '.join(words)} stand at tokens {tokens}, but the site has "
                             f"only {size}")
    return tokens


def _words(select: Select, site: Site, x: Tensor, plan: Plan) -> Tensor:
    """The tokens of the words in each row that is selected: other rows may have another prompt."""
    _carries_text(site, plan)
    at, rows = site.axes.index("j" if "j" in site.axes else "n"), _rows(site, x)
    part = torch.zeros(rows, x.shape[at], dtype=torch.bool)
    for row in range(rows) if select.rows is None else positions(select.rows, rows, f"{site.name}: rows"):
        part[row, _tokens_in(x.shape[at], select.words, site, row, plan)] = True
    if "b" not in site.axes:
        return _along(part[0], (at,), x.ndim)
    return _along(part, (site.axes.index("b"), at), x.ndim)         # b stands before every other axis of a site


def _check_mask(mask: Mask, site: Site, plan: Plan) -> None:
    if mask.rows is not None and plan.seeds is not None and mask.rows != len(plan.seeds):
        raise SelectionError(f"{site.name}: the mask has {mask.rows} rows and the batch {len(plan.seeds)}")
    if "n" in site.axes and "h" not in site.axes and plan.grid_of is not None:
        _sized(mask, site, _grid(site, plan).sides[1:])
    elif {"h", "w"} <= set(site.axes) and site.shape is not None:
        _sized(mask, site, (site.size("h"), site.size("w")))


def _grid(site: Site, plan: Plan) -> Grid:
    """The grid on which the tokens of a site stand."""
    grid = None if plan.grid_of is None else plan.grid_of(site.name)
    if grid is None:
        raise SelectionError(f"{site.name} has no picture that a mask could mean: its tokens stand in no known grid "
                             f"(axes '{' '.join(site.axes)}'); limit it by tokens=")
    return grid


def _sized(mask: Mask, site: Site, size: tuple[int | None, int | None]) -> Tensor:
    try:
        return mask.sized(*size)    # type: ignore[arg-type]  # known, where shapes are
    except MaskError as error:
        raise SelectionError(f"{site.name}: {error}") from None


def _space(mask: Mask, site: Site, x: Tensor, plan: Plan) -> Tensor:
    """The mask on the site's own grid: of its picture, or of its tokens in every frame, of which the rest lie outside."""
    tokens = "h" not in site.axes
    at = (site.axes.index("n"),) if tokens else (site.axes.index("h"), site.axes.index("w"))
    grid = _grid(site, plan) if tokens else None
    sized = _sized(mask, site, grid.sides[1:] if grid else (x.shape[at[0]], x.shape[at[-1]]))
    if grid:
        n, flat = x.shape[at[0]], sized.flatten(-2).repeat(*[1] * (sized.ndim - 2), grid.frames)
        try:
            grid.check(site.name, n)
        except ValueError as error:
            raise SelectionError(str(error)) from None
        sized = torch.nn.functional.pad(flat, (grid.start, n - grid.start - grid.size))
    if mask.rows is None:
        return _along(sized, at, x.ndim)
    if mask.rows != _rows(site, x):
        raise SelectionError(f"{site.name}: the mask has {mask.rows} rows and the batch {_rows(site, x)}")
    return _along(sized, (site.axes.index("b"), *at), x.ndim)
