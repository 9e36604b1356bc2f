"""Running a stage graph through the cache.

`run_stage` is the one function that runs one stage for one set of rows: the plain loop, the cache and every engine
call it. `node_keys` says, without running anything, under which key each stage's output is kept; that is also how a
plan counts what has to run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from .cache import StageCache
from .keys import digest
from .memory import Outputs


class Node(Protocol):
    """One stage of a graph: its name, the nodes it reads, and the digest of its weights and configuration."""

    name: str
    inputs: tuple[str, ...]
    weights_hash: str


class StageGraph(Protocol):
    """What a pipeline offers to the cache and the engines. `nodes` stands in topological order."""

    nodes: Sequence[Node]

    def run_node(self, name: str, inputs: Mapping[str, Outputs], request: Any, edits: Sequence[Any] = ()) -> Outputs:
        """Run one stage for the rows of `request`; CPU tensors by name."""

    def edits_for(self, name: str, edits: Sequence[Any]) -> Sequence[Any]:
        """The edits whose sites live in that stage."""


def node_keys(graph: StageGraph, edits: Sequence[Any], rows: Mapping[str, Any], context: Any) -> dict[str, str]:
    """Content keys of all nodes for one set of rows.

    Args:
        graph: the pipeline (with its variants chosen).
        edits: all edits of the cell; each node's key holds those that touch it.
        rows: the parts of the request by field name (`images`, `prompts`, `seeds`, `steps`, ...), as data or digests.
            A node that states `reads` (a tuple of field names) depends on those alone, any other on all.
        context: what else the bytes depend on: device class, dtype, code version, batch composition.
    """
    keys: dict[str, str] = {}
    for node in graph.nodes:
        reads = getattr(node, "reads", None)
        wanted = rows if reads is None else {field: rows[field] for field in reads if field in rows}
        keys[node.name] = digest({
            "node": node.name, "weights": node.weights_hash, "context": context, "rows": dict(wanted),
            "inputs": {name: keys[name] for name in node.inputs},
            "edits": [edit.to_dict() for edit in graph.edits_for(node.name, edits)]})
    return keys


def run_stage(graph: StageGraph, name: str, key: str, inputs: Callable[[], Mapping[str, Outputs]], request: Any,
              edits: Sequence[Any], cache: StageCache) -> Outputs:
    """The outputs of one stage for the rows of `request`: from the cache, or computed and kept.

    `inputs` is called only when the stage has to run, so that a hit never wakes the stages above it.
    """
    found = cache.get(key)
    if found is not None:
        cache.tally.hits[name] += 1
        return found
    given = inputs()
    start = time.perf_counter()
    outputs = graph.run_node(name, given, request, edits=graph.edits_for(name, edits))
    cache.tally.seconds[name] += time.perf_counter() - start
    cache.tally.runs[name] += 1
    cache.tally.rows[name] += len(request.prompts)
    cache.put(key, outputs)
    return outputs


def run_graph(graph: StageGraph, request: Any, edits: Sequence[Any], keys: Mapping[str, str], cache: StageCache,
              before: Callable[[str], None] = lambda name: None) -> Outputs:
    """The outputs of the last node. Stages run only where the cache has nothing; `before(name)` tells which is next."""
    nodes = {node.name: node for node in graph.nodes}
    done: dict[str, Outputs] = {}

    def outputs_of(name: str) -> Outputs:
        if name not in done:
            before(name)
            done[name] = run_stage(graph, name, keys[name], lambda: {n: outputs_of(n) for n in nodes[name].inputs},
                                   request, edits, cache)
        return done[name]

    return outputs_of(list(nodes)[-1])
