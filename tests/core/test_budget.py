"""Budgets: what would not fit in memory or on the disk is refused before it runs."""

from __future__ import annotations

import shutil
from contextlib import nullcontext

import pytest
import torch

from tests.core.models import Denoiser, start
from wanlab.core import BudgetError, Probe, trace

SITE = "blocks.0.temporal.z"


def test_over_the_budget_refuses_before_the_run_where_shapes_are_known() -> None:
    model = Denoiser()
    with Probe(model) as probe:
        model(start(), steps=1)
    site, need, mean = "blocks.0.out", 4 * 3 * 4 * 5 * 8 * 3 * 2, 8 * 4 * 5 * 8
    kwargs = {"steps": 3, "branches": ("cond", "uncond"), "sites": probe.sites}
    trace(model, capture=site, budget=need, **kwargs)
    with pytest.raises(BudgetError, match=r"out needs .* GiB in memory, the budget is .* GiB: stream \('blocks.0.out -> mean'"):
        trace(model, capture=site, budget=need - 1, **kwargs)
    several = [f"{site} -> mean", f"{site} -> disk", f"{site}@steps=0"]
    trace(model, capture=several, budget=need // 3 + mean, **kwargs)
    with pytest.raises(BudgetError, match=r"2 captures \(the largest: blocks.0.out -> cpu, .* GiB\) need"):
        trace(model, capture=several, budget=need // 3 + mean - 1, **kwargs)
    with pytest.raises(BudgetError):
        trace(model, capture=site, budget=need, seeds=range(4), **kwargs)
    trace(model, capture=f"{site}[rows=3]", budget=need // 3, **kwargs)        # a row that the dry run did not have
    trace(model, capture=f"{site}@sigma=0.5:", budget=need, **kwargs)
    with pytest.raises(BudgetError):
        trace(model, capture=f"{site} -> mean(by=step)", budget=3 * mean - 1, **kwargs)


def test_unknown_shapes_are_measured_when_they_fire_first() -> None:
    need, model = 4 * 3 * 4 * 5 * 8 * 3 * 2, Denoiser()
    with pytest.raises(BudgetError, match=r"blocks.0.out needs"), \
            trace(model, capture="blocks.0.out", budget=need - 1, steps=3, branches=("cond", "uncond")) as t:
        model(start())
    assert not t.record.firings
    with trace(model, capture="blocks.0.out", budget=need) as t:
        model(start())
    with pytest.raises(BudgetError, match=r"the captures up to blocks.0.out"), \
            trace(model, capture="blocks.0.out", budget=need - 1) as t:
        for _ in range(2):          # what nobody announced is refused when it comes
            model.blocks[0](start())
            model.blocks[0](torch.cat([start()] * 9))


def test_a_full_disk_refuses_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Denoiser()
    with Probe(model) as probe:
        model(start(), steps=1)
    need, free = 4 * 3 * 4 * 5 * 8 * 3 * 2, shutil.disk_usage(".")
    kwargs = {"steps": 3, "branches": ("cond", "uncond"), "sites": probe.sites, "capture": "blocks.0.out -> disk"}
    for left, context in ((need, nullcontext()), (need - 1, pytest.raises(BudgetError, match=r"GiB are free in .*TMPDIR"))):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, left=left: free._replace(free=left))
        with context:
            trace(model, **kwargs)


def test_what_lies_on_disk_is_not_read_at_once_over_the_budget() -> None:
    with trace(model := Denoiser(), capture=f"{SITE} -> disk", budget=600) as t:
        model(start())
    kept = t.record
    assert kept.bytes == 0 and kept[SITE, 1, "cond"].tensor.shape == (3, 5, 2, 4, 4)
    assert kept[f"{SITE}[heads=0,frames=1]@steps=1"].tensor.numel() == 2 * 3 * 5 * 4
    with pytest.raises(BudgetError, match=r"on disk, the budget is .*: ask for one firing, record\['blocks.0.temporal.z', step"):
        kept[SITE]
