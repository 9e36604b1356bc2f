"""Traces around a whole pipeline: stopping early, and threads that share one."""

from __future__ import annotations

import threading
from typing import Any

import torch

from wanlab.core import Noise, Zero, trace
from wanlab.pipelines.cascade import Cascade

IMAGE = torch.linspace(0.2, 0.8, 64).expand(3, 64, 64)


def run(pipe: Cascade, **kwargs: Any) -> Any:
    return pipe.generate(IMAGE, "a red circle moves left", steps=2, guidance=2.0, **kwargs)


def test_stop_after_saves_the_steps_and_stages_that_follow(pipe: Cascade) -> None:
    ran: list[str] = []
    pipe.sites()        # a dry run, the first time
    names = ("text", "image", "generator", "upsample.0", "detail")
    hooks = [pipe.get_submodule(name).register_forward_hook(lambda *_, name=name: ran.append(name)) for name in names]
    try:
        with trace(pipe, capture="generator.mid.resid_post", stop_after="generator.mid.resid_post@steps=0,branch=uncond") as t:
            run(pipe)
    finally:
        for hook in hooks:
            hook.remove()
    assert ran == ["text", "text", "image", "generator"]        # the second forward of the generator was cut short
    assert [key[1:3] for key in t.record.firings] == [(0, "cond"), (0, "uncond")]


def test_two_threads_that_share_a_pipeline_run_as_alone(pipe: Cascade) -> None:
    edits = {"a": [Noise("generator.**.out", std=0.2)], "b": [Zero("fusion.pooled@steps=1")], "c": []}
    alone = {name: run(pipe, edits=one, capture="generator.mid.**") for name, one in edits.items()}
    together, barrier = {}, threading.Barrier(len(edits))

    def work(name: str) -> None:
        barrier.wait()
        together[name] = run(pipe, edits=edits[name], capture="generator.mid.**")

    threads = [threading.Thread(target=work, args=name) for name in edits]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, out in alone.items():
        assert torch.equal(together[name].video, out.video) and together[name].record == out.record
        assert together[name].ledger.to_dict() == out.ledger.to_dict()
    assert not any("_taps" in vars(module) for module in pipe.modules())
