"""Content keys and the stage cache: a stage's output is computed once and found again by what it depends on.

`keys` turns values into digests, `memory` and `disk` are the two tiers, `cache` puts them behind one face and
`walk` runs a stage graph through it.
"""

from __future__ import annotations

from .cache import GIB, StageCache, Tally
from .keys import digest, file_digest, source_digest
from .walk import node_keys, run_graph, run_stage

__all__ = ["GIB", "StageCache", "Tally", "digest", "file_digest", "node_keys", "run_graph", "run_stage", "source_digest"]
