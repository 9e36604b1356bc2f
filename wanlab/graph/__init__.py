"""Content keys and the stage cache: a stage's output is computed once and found again by what it depends on.

`keys` turns values into digests, `memory` and `disk` are tiers (`recent`: what was used last), `cache` puts them behind one face.
`timetable`, `piece`, `recipes`, `fork`, `work` and `cohort` say what cells ask of a stage graph and what they share; `walk` runs
it.
"""

from __future__ import annotations

from .cache import GIB, StageCache, Tally
from .cohort import cohorts, side_by_side
from .fork import forked
from .keys import digest, file_digest, source_digest
from .piece import Piece, Recipe, pieces_of
from .recipes import edits_by_node, recipes_of
from .timetable import Timetable
from .walk import PackError, Walk, run_stage
from .work import Work

__all__ = [
    "GIB", "PackError", "Piece", "Recipe", "StageCache", "Tally", "Timetable", "Walk", "Work", "cohorts", "digest",
    "edits_by_node", "file_digest", "forked",
    "pieces_of", "recipes_of", "run_stage", "side_by_side", "source_digest",
]  # fmt: skip
