"""Cohorts: cells that share work within a batch, in the order in which they are best run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .piece import Piece
from .work import Pack, Work


def side_by_side(cells: Mapping[str, Sequence[Piece]]) -> list[str]:
    """The cells in an order in which those that go the longest way together follow each other, so that little is kept at a time;
    else as they come. `cells`: their pieces in any one batch."""
    first: dict[tuple[str, ...], int] = {}
    marks: dict[str, list[int]] = {}
    for place, (cell, pieces) in enumerate(cells.items()):
        path = tuple(piece.key for piece in pieces if piece.local)
        marks[cell] = [first.setdefault(path[:length], place) for length in range(1, len(path) + 1)]
    return sorted(cells, key=lambda cell: marks[cell])


def cohorts(work: Work) -> list[tuple[str, ...]]:
    """The cells in groups that have a stage run in common that is of use within one batch alone; in the order of their first."""
    parent = {cell: cell for cell in work.results}

    def root(cell: str) -> str:
        while parent[cell] != cell:
            parent[cell] = cell = parent[parent[cell]]
        return cell

    owner: dict[Pack, str] = {}
    for cell in work.results:
        for pack, pieces in work.runs([cell]):
            if pieces[0].local:
                parent[root(cell)] = root(owner.setdefault(pack, cell))
    found: dict[str, list[str]] = {}
    for cell in work.results:
        found.setdefault(root(cell), []).append(cell)
    return [tuple(cohort) for cohort in found.values()]
