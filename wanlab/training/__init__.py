"""Training of every network that the project ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wanlab.training.watch import Watch, watched_by

__all__ = ["KINDS", "Watch", "run", "watched_by"]

KINDS = ("cascade", "judges")


def run(config: dict[str, Any], out: Path) -> dict[str, Any]:
    """Train what a study file of experiments/train/ describes, into the folder `out`; what is finished there is kept.

    `config["kind"]` says what. ValueError for an unknown kind, and for settings that a recipe does not have.
    """
    kind = config.get("kind")
    if kind == "judges":
        from wanlab.training import judges

        return judges.train(config, out)
    if kind == "cascade":
        from wanlab.training import cascade

        return cascade.train(config, out)
    if kind is None:
        raise ValueError(f"a training file says kind: {' or '.join(KINDS)}; without it, is this a study for wanlab run?")
    from wanlab.core.nearest import suggestion

    raise ValueError(f"a training file says kind: {' or '.join(KINDS)}, not {kind!r}{suggestion(str(kind), KINDS)}")
