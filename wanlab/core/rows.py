"""Rows: batches of samples joined and cut, tensors as well as the edits that mean them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wanlab.core.index import positions
from wanlab.core.site import Site

if TYPE_CHECKING:
    from wanlab.core.edit import Edit

ONCE = "once:"      # begins the name of a tensor that has no rows; in all others they are the first axis


def join(batches: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The rows of several batches as one. Raises ValueError where they do not hold the same tensors."""
    first = batches[0]
    for other in batches[1:]:
        if other.keys() != first.keys():
            raise ValueError(f"batches of different tensors cannot be joined: {', '.join(sorted(other.keys() ^ first.keys()))}")
        for name in first:
            if name.startswith(ONCE) and not torch.equal(other[name], first[name]):
                raise ValueError(f"batches with another {name} cannot be joined")
    return {name: value if name.startswith(ONCE) or len(batches) == 1 else torch.cat([batch[name] for batch in batches])
            for name, value in first.items()}


def cut(batch: Mapping[str, Tensor], rows: slice) -> dict[str, Tensor]:
    """Some rows of a batch, as views."""
    return {name: value if name.startswith(ONCE) else value[rows] for name, value in batch.items()}


def by_row(edit: Edit, sites: Iterable[Site] = ()) -> bool:
    """Whether the edit does to a row (at these sites) what it would do to that row alone, so that it can act in another batch."""
    one_mask = edit.mask is None or edit.mask.rows is None
    return one_mask and not edit.mixes_rows and all("b" in site.axes for site in sites)


def placed(edit: Edit, rows: range, of: int, at: int, total: int) -> Edit | None:
    """The edit of a batch of `of` rows, of which `rows` (in one piece) stand from row `at` on in a batch of `total`; None where
    it means none of them. Only for edits that act `by_row`."""
    if edit.rows is None and len(rows) == total:
        return edit
    meant = rows if edit.rows is None else [row for row in positions(edit.rows, of, "rows") if row in rows]
    moved = [row - rows.start + at for row in meant]
    return replace(edit, rows=moved) if moved else None
