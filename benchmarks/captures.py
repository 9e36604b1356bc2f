"""The same twelve tensors of one block, captured with this house, with TransformerLens and with nnsight.

Two ways each. By reference: what is kept is the tensor that flows on, and is wrong as soon as a later operation writes to it
in place. Copied: what is kept stays what it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import nnsight
import torch
from blocks import POINTS, TWELVE, Block, bare, peer
from torch import Tensor, nn
from transformer_lens import HookedRootModule
from transformer_lens.hook_points import HookPoint

from wanlab.core import trace

OURS, LENS, SIGHT = "wanlab", "TransformerLens", "nnsight"
HOW = ("by reference", "copied")
Capture = Callable[[Tensor], Any]


class Subjects(NamedTuple):
    """A block, its twin without guards, an input, and the captures: (library, how) -> a forward that keeps twelve tensors."""

    block: Block
    plain: Block
    x: Tensor
    captures: dict[tuple[str, str], Capture]


def subjects(sizes: dict[str, int], tokens: int, device: str) -> Subjects:
    """All that is timed at one size. Raises where two of them do not compute or do not keep the same."""
    torch.manual_seed(0)
    block = Block(**sizes).to(device).eval()
    x = torch.randn(1, tokens, sizes["width"], device=device)
    lens = peer(block, HookedRootModule, HookPoint)
    lens.setup()  # type: ignore[operator]
    captures = {**_ours(block), **_lens(lens), **_sight(nnsight.NNsight(peer(block, nn.Module, nn.Identity)))}
    made = Subjects(block, bare(block), x, captures)
    _agree(made)
    return made


def _ours(block: Block) -> dict[tuple[str, str], Capture]:
    def keep(policy: str) -> Capture:
        wanted = [f"{name} -> {policy}" for name in TWELVE]

        def run(x: Tensor) -> Any:
            with trace(block, capture=wanted) as t:
                block(x)
            return t.record

        return run

    return {(OURS, HOW[0]): keep("graph"), (OURS, HOW[1]): keep("device")}


def _lens(model: Any) -> dict[tuple[str, str], Capture]:
    def reference(x: Tensor) -> dict[str, Tensor]:
        return model.run_with_cache(x, names_filter=list(POINTS))[1]

    def copied(x: Tensor) -> dict[str, Tensor]:
        kept = {}

        def hook(tensor: Tensor, hook: HookPoint) -> None:
            kept[hook.name] = tensor.detach().clone()

        model.run_with_hooks(x, fwd_hooks=[(name, hook) for name in POINTS])
        return kept

    return {(LENS, HOW[0]): reference, (LENS, HOW[1]): copied}


def _sight(model: Any) -> dict[tuple[str, str], Capture]:
    def reference(x: Tensor) -> dict[str, Tensor]:
        with model.trace(x):
            kept = nnsight.save({})
            for name in POINTS:
                kept[name] = getattr(model, name).output
        return kept

    def copied(x: Tensor) -> dict[str, Tensor]:
        with model.trace(x):
            kept = nnsight.save({})
            for name in POINTS:
                kept[name] = getattr(model, name).output.detach().clone()
        return kept

    return {(SIGHT, HOW[0]): reference, (SIGHT, HOW[1]): copied}


def _agree(made: Subjects) -> None:
    """Every library must have kept the values that ours kept, and the twin must compute what the block computes."""
    wanted = made.captures[OURS, "copied"](made.x)
    results = {" ".join(way): run(made.x) for way, run in made.captures.items()}
    for name, point in zip(TWELVE, POINTS, strict=True):
        for way, kept in results.items():
            found = kept[name].tensor if way.startswith(OURS) else kept[point]
            torch.testing.assert_close(found, wanted[name].tensor, rtol=1e-5, atol=1e-5, msg=f"{way}: another {name}")
    if not torch.equal(made.plain(made.x), wanted["resid_post"].tensor):
        raise ValueError("the block without its guards computes something else")
