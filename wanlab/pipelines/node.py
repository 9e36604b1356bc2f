"""Nodes: what a pipeline's graph is made of, and the hash of the weights that each of them runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor


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
        """sha256 of its stages (`Pipeline.hash_of`): all of their weights are read for it when it is first asked for, and again
        only after they have changed. A change through `.data` of a tensor in place is not seen."""
        return self.weights()

    @property
    def steps(self) -> bool:
        """Whether the node runs in denoising steps."""
        return "steps" in self.reads


def with_hashes(pipe: Any, nodes: Sequence[Node]) -> list[Node]:
    """The nodes with the hashes of the weights they run."""
    return [replace(node, weights=_Hash(pipe, node.stages)) for node in nodes]


class _Hash:
    """The hash of some stages of a pipeline, kept for as long as nothing of them was changed or replaced."""

    def __init__(self, pipe: Any, stages: tuple[str, ...]) -> None:
        self._owner = weakref.ref(pipe)     # a pipeline whose nodes refer to it would wait for the garbage collector
        self._stages, self._seen, self._hash = stages, None, ""

    def __call__(self) -> str:
        pipe = self._owner()
        if pipe is None:
            if not self._hash:
                raise RuntimeError(f"the pipeline of {', '.join(self._stages)} is gone, and nobody asked for its hash")
            return self._hash
        seen = _seen(pipe, self._stages)
        if seen != self._seen:
            self._hash, self._seen = str(pipe.hash_of(*self._stages)), seen
        return self._hash


RULING = ("config", "tokenizer", "processor")       # of a module: what decides its output beside its tensors


def _seen(pipe: Any, stages: Sequence[str]) -> Any:
    """What differs once modules are replaced or weights written to, without reading any. Stages that come and go between devices
    (`Residence`) are at another place each time, and their buffers other tensors, with the values they had."""
    moves, modules = pipe.residence is not None, [pipe.get_submodule(stage) for stage in stages]
    parts = [(id(part), *(id(vars(part).get(name)) for name in RULING)) for module in modules for part in module.modules()]
    values = [value for module in modules for value in (*module.parameters(), *(() if moves else module.buffers()))]
    return parts, [(id(value), 0 if moves else value.data_ptr(), value.dtype, value.shape, _version(value)) for value in values]


def _version(value: Tensor) -> int:
    """How often a tensor was written to; of what was made in inference mode, nobody counts it."""
    return 0 if value.is_inference() else value._version
