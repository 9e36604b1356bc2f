"""Traces and clocks in several threads: none sees another's, wherever its block ends."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from tests.core.models import Denoiser, start
from tests.core.test_trace import run, state
from wanlab.core import Mean, Noise, ReverseFrames, Scale, Zero, clock, trace


def test_a_generator_that_is_dropped_half_way_leaves_nothing() -> None:
    model, x = Denoiser(), start()

    def half() -> Iterator[Tensor]:
        with trace(model, Zero("picture")):
            yield model(x)
            yield model(x)

    it = half()
    assert not next(it).any()
    thread = threading.Thread(target=it.close)      # closed from another context than it was opened in
    thread.start()
    thread.join()
    gc.collect()
    assert state(model) == state(Denoiser()) and model(x).any()


def test_a_clock_that_stops_in_another_thread_leaves_both_clocks_right() -> None:
    def half() -> Iterator[None]:
        with clock.announce(steps=8), clock.at(step=5):
            yield

    it = half()
    next(it)
    seen = []

    def close() -> None:
        with clock.at(step=2):
            it.close()
            seen.append(clock.now().step)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert seen == [2] and clock.now() == clock.Tick() and clock.plan() == clock.Plan()


def test_two_threads_that_share_modules_do_not_see_each_other() -> None:
    model, x = Denoiser(), start()
    plain, barrier, out, errors = model(x), threading.Barrier(3), {}, []

    def work(name: str, factor: float | None) -> None:
        try:
            for _ in range(20):
                barrier.wait()
                if factor is None:
                    out[name] = model(x)
                    continue
                with trace(model, Scale("picture", factor), "picture") as t:
                    out[name] = model(x)
                assert torch.equal(out[name], plain * factor)
                assert torch.equal(t.record["picture"].tensor, plain * factor) and len(t.record.firings) == 1
            assert factor is not None or torch.equal(out[name], plain)
        except BaseException as error:
            errors.append(error)
            barrier.abort()

    threads = [threading.Thread(target=work, args=one) for one in (("a", 2.0), ("b", 3.0), ("none", None))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and state(model) == state(Denoiser())


def test_two_threads_on_two_pipelines_see_their_own_and_run_as_alone() -> None:
    edits = {"a": [Noise("**.out", std=0.3), Scale("text@branch=cond", 0.5)], "b": [ReverseFrames("**.resid"), Mean("latent")]}
    alone = {name: run(Denoiser(), edits[name], "**") for name in edits}
    together, barrier, models = {}, threading.Barrier(2), {name: Denoiser() for name in edits}

    def work(name: str) -> None:
        barrier.wait()
        together[name] = run(models[name], edits[name], "**")

    threads = [threading.Thread(target=work, args=name) for name in edits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, (out, t) in alone.items():
        assert torch.equal(together[name][0], out) and together[name][1].record == t.record
        assert together[name][1].ledger.to_dict() == t.ledger.to_dict()
