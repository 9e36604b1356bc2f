"""What a pipeline takes, computed and not measured: bytes of weights and activations, and floating point operations, of each node.

A dry run on the meta device passes through every operation of a node without values. Counted are the tensors that are alive at
once, as PyTorch frees them without a compiler; attention counts as the fused kernel has it, linear in the tokens. Not counted: what
libraries of kernels take for themselves (workspaces, fragmentation, the context of the device).
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from wanlab.core import GIB
from wanlab.pipelines.base import Pipeline
from wanlab.pipelines.node import Node
from wanlab.pipelines.request import Request
from wanlab.pipelines.wan_presets import PRESETS
from wanlab.stages.experts import Experts


@dataclass(frozen=True)
class NodeCost:
    """One node for one row: bytes of the weights that it needs on the device at once, bytes of activations at their peak, and
    floating point operations of products of matrices, convolutions and attention (of the denoising loop: of one forward)."""

    name: str
    weights: int
    activations: int
    flop: float

    @property
    def total(self) -> int:
        """Bytes of both."""
        return self.weights + self.activations


def costs(pipe: Pipeline) -> list[NodeCost]:
    """The cost of each node of a pipeline on the meta device (`load(name, init="meta")`), in the precision of its weights."""
    if not all(value.is_meta for value in pipe.parameters()):
        raise ValueError("costs are computed on the meta device: load(name, init='meta')")
    counted: dict[str, _Counted] = {}

    @contextmanager
    def counting(node: str) -> Iterator[None]:
        counted[node] = _Counted(pipe)
        with counted[node], _Fused(counted[node]):
            yield

    with torch.no_grad():
        request = pipe.dry_run(counting)
    return [_cost(pipe, node, counted[node.name], request) for node in pipe.nodes]


def _cost(pipe: Pipeline, node: Node, counted: _Counted, request: Request) -> NodeCost:
    forwards = request.steps * len(pipe.branches(request)) if node.steps else 1
    weights = max(bytes_of([pipe.get_submodule(stage) for stage in stages]) for stages in pipe.resident(node.name))
    return NodeCost(node.name, weights, counted.peak, counted.flop / forwards)


@dataclass(frozen=True)
class StageCost:
    """One stage, or a part of one that is a node by itself: its parameters, floating point operations of one run on one row, and
    how often it runs in a generation with the preset's own steps and guidance (0: only training runs it)."""

    name: str
    parameters: int
    flop: float
    runs: int


def stage_costs(pipe: Pipeline) -> list[StageCost]:
    """The cost of each stage of a pipeline on the meta device, in the order of its graph. One in tiles is counted whole."""
    at = {stage: node for node in pipe.nodes for stage in node.stages if stage != "sampler"}
    known = {stage.split(".")[0] for stage in (*at, "sampler")}
    parts = [*at, *(name for name, _ in pipe.named_children() if name not in known)]
    counted, (steps, guidance) = _Counted(pipe), pipe._dry
    with torch.no_grad(), counted, _Fused(counted), _by_part(pipe, parts, counted) as spent:
        pipe.dry_run()
    own = pipe.config["sampler"]
    return [StageCost(name, sum(value.numel() for value in pipe.get_submodule(name).parameters()),
                      spent[name] / _runs(pipe, at.get(name), steps, guidance),
                      _runs(pipe, at[name], own["steps"], own["guidance"]) if name in at else 0) for name in parts]


def _runs(pipe: Pipeline, node: Node | None, steps: int, guidance: float) -> int:
    """How often a node's stages run: for each branch where it reads the guidance, and for each step where it has steps."""
    if node is None or "guidance" not in node.reads:
        return 1
    asked = Request([""], [0], None, steps, guidance, guidance_2=pipe.config["sampler"].get("guidance_2"))
    return len(pipe.branches(asked)) * (steps if node.steps else 1)


@contextmanager
def _by_part(pipe: Pipeline, parts: Sequence[str], counted: _Counted) -> Iterator[Counter[str]]:
    """Operations while any module of a part runs, by part."""
    spent: Counter[str] = Counter()
    depth: Counter[str] = Counter()

    def enter(part: str, *_: Any) -> None:
        if not depth[part]:
            spent[part] -= counted.flop  # type: ignore[assignment]
        depth[part] += 1

    def leave(part: str, *_: Any) -> None:
        depth[part] -= 1
        if not depth[part]:
            spent[part] += counted.flop  # type: ignore[assignment]

    handles = []
    try:
        for part in parts:
            for module in pipe.get_submodule(part).modules():
                handles.append(module.register_forward_pre_hook(partial(enter, part)))
                handles.append(module.register_forward_hook(partial(leave, part)))
        yield spent
    finally:
        for handle in handles:
            handle.remove()


def stage_table(found: Sequence[StageCost]) -> str:
    """Costs of stages as lines of text, with their sums."""
    rows = [("stage", "parameters", "GFLOP a run", "runs", "GFLOP a video"), *(
        (one.name, f"{one.parameters:,}", f"{one.flop / 1e9:,.1f}", str(one.runs), f"{one.flop * one.runs / 1e9:,.1f}")
        for one in found)]
    whole = sum(one.parameters for one in found), sum(one.flop * one.runs for one in found)
    rows.append(("all", f"{whole[0]:,}", "", "", f"{whole[1] / 1e9:,.1f}"))
    return "\n".join("".join(cell.ljust(14) if place == 0 else cell.rjust(17) for place, cell in enumerate(row)) for row in rows)


def of_wan(name: str, dtype: torch.dtype | None = None, **settings: Any) -> Pipeline:
    """A Wan model on the meta device, in the precision in which it runs on a device: bfloat16, unless told otherwise, but float32
    where the published code computes in it."""
    from wanlab.pipelines.wan_load import load_wan

    told = {key: settings[key] for key in ("size", "frames") if key in settings}
    pipe, dtype = load_wan(name, init="meta", **told), dtype or torch.bfloat16
    pipe.text.to(dtype)
    for dit in (pipe.dit.high, pipe.dit.low) if isinstance(pipe.dit, Experts) else (pipe.dit,):
        dit.cast(dtype)
    return pipe


def sized(name: str) -> Pipeline:
    """A pipeline of sizes alone, a Wan model in the precision in which it runs."""
    from wanlab.pipelines.load import load

    return of_wan(name) if name in PRESETS else load(name, init="meta")


def told(pipe: Pipeline) -> str:
    """The costs of a pipeline of sizes alone as a table."""
    return f"{stage_table(stage_costs(pipe))}\n\n{table(costs(pipe), bytes_of([pipe]))}"


def footprint(name: str, **settings: Any) -> int:
    """Bytes that a Wan model takes on a device with all its stages there: every weight, and the largest activations."""
    pipe = of_wan(name, **settings)
    return bytes_of([pipe]) + max(one.activations for one in costs(pipe))


def bytes_of(modules: Sequence[nn.Module]) -> int:
    """Bytes of the weights of some modules, shared ones once."""
    values = {id(value): value for module in modules for value in (*module.parameters(), *module.buffers())}
    return sum(value.numel() * value.element_size() for value in values.values())


def table(found: Sequence[NodeCost], everything: int) -> str:
    """Costs as lines of text; `everything`: bytes of all weights."""
    rows = [("node", "weights GiB", "activations GiB", "both", "TFLOP"), *(
        (one.name, f"{one.weights / GIB:.3f}", f"{one.activations / GIB:.3f}", f"{one.total / GIB:.3f}", f"{one.flop / 1e12:.3g}")
        for one in found)]
    lines = ["".join(cell.ljust(14) if place == 0 else cell.rjust(17) for place, cell in enumerate(row)) for row in rows]
    staged, peak = max(found, key=lambda one: one.total), max(one.activations for one in found)
    lines += [f"stage by stage at most {staged.total / GIB:.3g} GiB ({staged.name}); all stages on the device at once "
              f"{(everything + peak) / GIB:.3g} GiB", "computed for one row, not measured; TFLOP of denoise: of one forward"]
    return "\n".join(lines)


class _Counted(TorchDispatchMode):
    """Bytes of tensors alive at once (`peak`), those of weights left out, and floating point operations."""

    def __init__(self, pipe: nn.Module) -> None:
        super().__init__()
        self.peak, self.flop, self._now = 0, 0.0, 0
        self._live = {value.untyped_storage()._cdata for value in (*pipe.parameters(), *pipe.buffers())}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.flop += count(*args, **(kwargs or {}), out_val=out)
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._born(value.untyped_storage())
        return out

    def _born(self, storage: Any) -> None:
        if storage._cdata not in self._live:
            self._live.add(storage._cdata)
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())

    def _gone(self, name: int, size: int) -> None:
        self._live.discard(name)
        self._now -= size


class _Fused(TorchFunctionMode):
    """Attention as one kernel: no map, four operations for each query, key and channel."""

    def __init__(self, counted: _Counted) -> None:
        super().__init__()
        self.counted = counted

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not F.scaled_dot_product_attention:
            return func(*args, **kwargs)
        q, k, v = (*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs))[:3]
        self.counted.flop += 2 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        return q.new_empty(*q.shape[:-1], v.shape[-1])
