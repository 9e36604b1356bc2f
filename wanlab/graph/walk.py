"""Running a stage graph through the cache.

`run_stage` is the one function that runs one stage for one set of rows: the plain loop, the cache and every engine
call it. `node_keys` says, without running anything, under which key each stage's output is kept; that is also how a
plan counts what has to run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

from .cache import StageCache
from .keys import digest
from .memory import Outputs

Steps = Callable[[int, int], None]
Progress = Callable[[str, int, int], None]


def silent(node: str, done: int, total: int) -> None:
    """Progress that nobody watches."""


class Node(Protocol):
    """One stage of a graph: its name, the nodes it reads, what it reads of a request, the hash of its weights."""

    name: str
    inputs: tuple[str, ...]
    reads: tuple[str, ...]
    weights_hash: str


class StageGraph(Protocol):
    """What a pipeline offers to the cache and the engines. `nodes` stands in topological order."""

    nodes: Sequence[Node]

    def run_node(
        self, name: str, inputs: Mapping[str, Outputs], request: Any, edits: Sequence[Any] = (), *, progress: Steps | None = None
    ) -> Outputs:
        """Run one stage for the rows of `request`; CPU tensors by name."""


def node_keys(nodes: Sequence[Node], edits: Mapping[str, Sequence[Any]], rows: Mapping[str, Any], context: Any) -> dict[str, str]:
    """Content keys of all nodes for one set of rows.

    Args:
        nodes: the graph in topological order, with the weights of the chosen variants.
        edits: node name -> the edits that touch it.
        rows: the request by field (`images`, `prompts`, `seeds`, `steps`, ...), as data or digests; a node's key
            holds the fields that it reads.
        context: what else the bytes depend on: device class, dtype, code version.
    """
    keys: dict[str, str] = {}
    for node in nodes:
        keys[node.name] = digest(
            {
                "node": node.name,
                "weights": node.weights_hash,
                "context": context,
                "rows": {field: rows[field] for field in node.reads},
                "inputs": {name: keys[name] for name in node.inputs},
                "edits": [edit.to_dict() for edit in edits.get(node.name, ())],
            }
        )
    return keys


def run_stage(
    graph: StageGraph,
    name: str,
    key: str,
    inputs: Callable[[], Mapping[str, Outputs]],
    request: Any,
    edits: Sequence[Any],
    cache: StageCache,
    progress: Progress = silent,
) -> Outputs:
    """The outputs of one stage for the rows of `request`: from the cache, or computed and kept.

    `inputs` is called only when the stage has to run, so that a hit never wakes the stages above it. `progress` is told
    the stage's name before it runs, and its denoising steps.
    """
    found = cache.get(key)
    if found is not None:
        cache.tally.hits[name] += 1
        return found
    given = inputs()
    progress(name, 0, 0)
    start = time.perf_counter()
    outputs = graph.run_node(name, given, request, edits=edits, progress=partial(progress, name))
    cache.tally.seconds[name] += time.perf_counter() - start
    cache.tally.runs[name] += 1
    cache.tally.rows[name] += len(request.prompts)
    cache.put(key, outputs)
    return outputs


def run_graph(
    graph: StageGraph,
    nodes: Sequence[Node],
    request: Any,
    edits: Mapping[str, Sequence[Any]],
    keys: Mapping[str, str],
    cache: StageCache,
    progress: Progress = silent,
) -> Outputs:
    """The outputs of the last node. A stage runs only where the cache has neither it nor anything below it."""
    by_name = {node.name: node for node in nodes}
    done: dict[str, Outputs] = {}

    def outputs_of(name: str) -> Outputs:
        if name not in done:
            done[name] = run_stage(
                graph,
                name,
                keys[name],
                lambda: {n: outputs_of(n) for n in by_name[name].inputs},
                request,
                edits.get(name, ()),
                cache,
                progress,
            )
        return done[name]

    return outputs_of(nodes[-1].name)
