"""Checkpoints: what is computed again is edited again, in any thread and after the trace; nothing is counted twice."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from tests.core.models import BRANCHES, Block, Denoiser, start
from tests.core.test_gradient import Single, loss_of
from wanlab.core import GradientError, Identity, Noise, Scale, Zero, checkpointed, clock, trace


class Chain(Denoiser):
    """A denoiser whose steps go through `hold`, a checkpoint or none."""

    def __init__(self, hold: Callable[..., Tensor]) -> None:
        super().__init__()
        self.hold = hold

    def guided(self, x: Tensor, text: dict[str, Tensor]) -> Tensor:
        return self.hold(super().guided, x, text)


def once(function: Callable[..., Tensor], *args: Any) -> Tensor:
    return function(*args)


def foreign(function: Callable[..., Tensor], *args: Any) -> Tensor:
    return checkpoint(function, *args, use_reentrant=False)


def nested(function: Callable[..., Tensor], *args: Any) -> Tensor:
    return checkpointed(lambda *inner: checkpointed(function, *inner), *args)


EDITS = [Scale("blocks.0.temporal.z[heads=0]@steps=1:", 2.0), Noise("blocks.1.resid@branch=cond", std=0.5),
         Zero("blocks.1.temporal.pattern@steps=2,branch=uncond", heads=1)]
CAPTURES = ["blocks.*.out -> grad", "blocks.1.spatial.z[heads=1]", "blocks.0.spatial.pattern[frames=0]@steps=0 -> grad",
            "blocks.0.temporal.z[frames=1:]@steps=1 -> graph", "blocks.0.out -> mean"]


def differentiated(hold: Callable[..., Tensor], captures: list[str] = CAPTURES) -> tuple[Any, list[Tensor]]:
    model = Chain(hold)
    with trace(model, EDITS, captures) as t:
        loss_of(model(start())).backward()
    return t, [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("hold", [checkpointed, nested])
def test_a_checkpoint_computes_again_under_the_edits_and_counts_nothing_twice(hold: Callable[..., Tensor]) -> None:
    (plain, wanted), (t, gradients) = differentiated(once), differentiated(hold)
    assert t.ledger.ok and t.ledger.to_dict() == plain.ledger.to_dict()
    assert t.record.firings and set(t.record.firings) == set(plain.record.firings)
    assert all(torch.equal(t.record.entry(key).tensor, plain.record.entry(key).tensor) for key in t.record.firings)
    assert all(torch.equal(one, other) for one, other in zip(gradients, wanted, strict=True))


def test_a_checkpoint_computes_again_under_the_edits_after_the_trace_and_in_any_thread() -> None:
    wanted = differentiated(once, [])[1]
    model = Chain(checkpointed)
    with trace(model, EDITS):
        loss = loss_of(model(start()))
    thread = threading.Thread(target=loss.backward)
    thread.start()
    thread.join()
    assert all(torch.equal(one.grad, other) for one, other in zip(model.parameters(), wanted, strict=True))
    assert not any("_taps" in vars(module) for module in model.modules())


def test_a_checkpoint_computes_again_under_its_own_traces_alone() -> None:
    wanted, model = differentiated(once, [])[1], Chain(checkpointed)
    with trace(model, EDITS):
        loss = loss_of(model(start()))
    with trace(model, Scale("**.out", 5.0), "**.out", strict=False) as other:
        loss.backward()
    assert all(torch.equal(one.grad, gradient) for one, gradient in zip(model.parameters(), wanted, strict=True))
    assert not other.record.firings


def test_a_strangers_checkpoint_is_followed_where_the_clock_stands_still() -> None:
    block, x = Block(), start()
    gradients = []
    for hold in (once, foreign):
        with trace(block, [Scale("temporal.z", 2.0), Noise("resid", std=0.5)], ["temporal.pattern", "resid -> grad"]) as t:
            hold(block, x).sin().sum().backward()
        assert all(sum(line.acted.values()) == 1 for line in t.ledger)
        gradients.append(t.record["resid -> grad"].tensor)
    assert torch.equal(*gradients)


def test_a_strangers_checkpoint_that_forgets_step_branch_or_trace_raises() -> None:
    with pytest.raises(GradientError, match=r"blocks.*is computed again in a backward pass.*use wanlab.core.checkpointed"):
        differentiated(foreign)
    model, errors = Chain(foreign), []

    def back(loss: Tensor) -> None:
        try:
            loss.backward()
        except GradientError as error:
            errors.append(str(error))

    with trace(model, Scale("**.out", 2.0)):
        thread = threading.Thread(target=back, args=(loss_of(model(start())),))
        thread.start()
        thread.join()
    assert len(errors) == 1 and "use wanlab.core.checkpointed" in errors[0]


def most_alive(steps: int, hold: Callable[..., Tensor]) -> tuple[int, int]:
    """How many activations (queries, keys and values of a layer) are alive at most, and how many after all."""
    model, seen, most = Chain(hold).requires_grad_(False), [], 0

    def note(module: nn.Module, given: Any, out: Tensor) -> None:
        nonlocal most
        seen.append(StorageWeakRef(out.untyped_storage()))
        most = max(most, sum(not one.expired() for one in seen))

    for block in model.blocks:
        for layer in (block.spatial, block.temporal):
            layer.qkv.register_forward_hook(note)
    with trace(model, capture="latent@steps=0 -> grad") as t:
        loss_of(model(start(), steps)).backward()
    assert len(t.record.firings) == 1
    return most, sum(not one.expired() for one in seen)


def test_what_a_step_needs_is_freed_after_use_and_a_checkpoint_keeps_one_step_at_a_time() -> None:
    layers = 2 * 2 * len(BRANCHES)
    assert most_alive(2, once) == (2 * layers - layers, 0)      # step 0 lies before the site, with frozen weights
    assert most_alive(6, once) == (5 * layers, 0)
    assert most_alive(6, checkpointed) == most_alive(2, checkpointed) == (layers, 0)


def test_without_autograd_a_checkpoint_is_the_function() -> None:
    block, x = Block(), start()
    with torch.no_grad(), trace(block, Identity("out"), "out") as t:
        assert torch.equal(checkpointed(block, x), block(x))
    assert [key.call for key in t.record.firings] == [0, 1]


def test_a_trace_opened_within_a_backward_pass_is_one_of_its_own() -> None:
    single, kept = Single(), []

    def inside(x: Tensor) -> Tensor:
        with trace(single, Scale("out", 2.0), "out") as t, clock.at(step=3):
            y = single(x)
        kept.append(t.record["out"].tensor)
        return y ** 2

    x = torch.tensor([1.0, 2.0], requires_grad=True)
    checkpointed(inside, x).sum().backward()
    assert torch.equal(x.grad, 8 * x) and len(kept) == 2 and torch.equal(kept[0], kept[1])


@pytest.mark.gpu
def test_a_checkpoint_computes_again_in_autograds_own_threads() -> None:
    gradients = []
    for hold in (once, checkpointed):
        block = Block().cuda()
        block.load_state_dict(Denoiser().blocks[0].state_dict())
        with trace(block, [Scale("temporal.z", 2.0), Noise("resid", std=0.5)], "resid -> grad") as t:
            hold(block, start().cuda().requires_grad_()).sin().sum().backward()
        assert t.ledger.ok
        gradients.append([parameter.grad for parameter in block.parameters()])
    assert all(torch.allclose(one, other) for one, other in zip(*gradients, strict=True))
