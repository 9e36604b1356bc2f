"""Nodes: what a pipeline's graph is made of, and the hash of the weights that each of them runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any


@dataclass(frozen=True)
class Node:
    """One step of a pipeline's graph: `inputs` are nodes, `stages` the parts it runs, `reads` what it reads of a request; `weights`
    gives the hash of what it runs."""

    name: str
    inputs: tuple[str, ...]
    stages: tuple[str, ...]
    reads: tuple[str, ...] = ()
    weights: Callable[[], str] = field(default=str, repr=False, compare=False)

    @property
    def weights_hash(self) -> str:
        """sha256 of its stages (`Pipeline.hash_of`), found when first asked for: all of their weights are read for it."""
        return self.weights()

    @property
    def steps(self) -> bool:
        """Whether the node runs in denoising steps."""
        return "steps" in self.reads


def with_hashes(pipe: Any, nodes: Sequence[Node]) -> list[Node]:
    """The nodes with the hashes of the weights they run, each found once."""
    owner = weakref.ref(pipe)       # a pipeline whose nodes refer to it would wait for the garbage collector with all its weights

    def hashing(stages: tuple[str, ...]) -> Callable[[], str]:
        @cache
        def found() -> str:
            if (alive := owner()) is None:
                raise RuntimeError(f"the pipeline of {', '.join(stages)} is gone, and nobody asked for the hash of its weights")
            return str(alive.hash_of(*stages))

        return found

    return [replace(node, weights=hashing(node.stages)) for node in nodes]
