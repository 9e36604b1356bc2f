"""What a run asks of the nodes of a pipeline: its edits by node, and a recipe for each node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wanlab.core.rows import by_row

from .piece import Recipe
from .timetable import Timetable, narrowed


def recipes_of(pipe: Any, by_node: Mapping[str, Sequence[Any]], request: Any, settings: Mapping[str, Any],
               context: Any) -> list[Recipe]:
    """A recipe for each node of a pipeline, in their order, whatever the rows.

    by_node: the edits (`edits_by_node`); request: any with their steps; settings, context: as in `Recipe.of`.
    """
    levels, recipes = pipe.levels(request), []
    for node in pipe.nodes:
        table = Timetable.of(by_node[node.name], pipe.sites, levels if node.steps else None, pipe.steps_of(request))
        rowwise = all(by_row(edit, pipe.sites(edit.where.at)) for edit in table.edits)
        recipes.append(Recipe.of(node, table, [context, pipe.constants], settings, rowwise))
    return recipes


def edits_by_node(pipe: Any, edits: Sequence[Any]) -> dict[str, list[Any]]:
    """The edits that touch each node, in order, narrowed to its sites: a pattern that reaches over several nodes would otherwise
    wait in each of them for sites that fire in the others."""
    found: dict[str, list[Any]] = {node.name: [] for node in pipe.nodes}
    for edit in edits:
        names = [site.name for site in pipe.sites(edit.where.at)]
        reached: dict[str, list[str]] = {}
        for name in names:
            for node in pipe.nodes:
                if any(name.startswith(f"{stage}.") for stage in node.stages):
                    reached.setdefault(node.name, []).append(name)
        for node_name, mine in reached.items():
            found[node_name].append(edit if len(mine) == len(names) else narrowed(edit, mine))
    return found
