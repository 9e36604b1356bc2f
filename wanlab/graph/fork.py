"""Forks: where the denoising loops of cells part, so that each step that several have in common runs once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from .piece import Recipe, pieces_of


def forked(recipes: Mapping[str, Sequence[Recipe]], rows: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Recipe]]:
    """The recipes of all cells with the cuts that let each loop begin where it first differs from every other. A loop with an edit
    outside of its steps stays whole: nobody knows in which piece that one would act.

    rows: the request of each cell by field, where what is the cell's own (steps, guidance) decides and the rows are anything.
    """
    cut = {cell: list(mine) for cell, mine in recipes.items()}
    begins = {cell: {piece.node: piece.begin for piece in pieces_of(cell, mine, rows[cell])} for cell, mine in recipes.items()}
    for place in range(max(map(len, cut.values()), default=0)):
        loops = {cell: mine[place] for cell, mine in cut.items()
                 if place < len(mine) and mine[place].course and not mine[place].timetable.always}
        courses = [(begins[cell][recipe.node.name], recipe.course) for cell, recipe in loops.items()]
        for (cell, recipe), cuts in zip(loops.items(), cuts_of(courses), strict=True):
            cut[cell][place] = replace(recipe, cuts=cuts)
    return cut


def cuts_of(courses: Sequence[tuple[str, tuple[str, ...]]]) -> list[tuple[int, ...]]:
    """For each (beginning, course) the steps before which it pauses: those at which another course with the same beginning, equal
    up to there, goes another way. Nobody pauses before step 0: noise costs nothing."""
    roots: dict[str, int] = {}
    below: list[dict[str, int]] = []        # a trie of courses: for each prefix, what comes next -> the longer prefix
    paths = []
    for beginning, course in courses:
        at = _known(roots, beginning, below)
        paths.append([at])
        for acting in course:
            at = _known(below[at], acting, below)
            paths[-1].append(at)
    return [tuple(step for step, at in enumerate(path) if step and len(below[at]) > 1) for path in paths]


def _known(children: dict[str, int], name: str, trie: list[dict[str, int]]) -> int:
    if name not in children:
        children[name] = len(trie)
        trie.append({})
    return children[name]
