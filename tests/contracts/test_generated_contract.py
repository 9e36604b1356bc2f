"""Selections and lists of edits that Hypothesis generates, on a small model, against numpy and against themselves."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from ruamel.yaml import YAML
from torch import Tensor

from tests.contracts import strategies
from tests.core.models import BRANCHES, Denoiser, start
from tests.core.test_trace import state
from wanlab import core
from wanlab.core import Edit, Probe, Record, Select, Site, Zero, edit_from_dict, trace
from wanlab.core.select import AXIS_OF

ROWS, STEPS = 3, 3
MODEL, X = Denoiser(), start(ROWS)
with torch.no_grad(), Probe(MODEL) as _probe:
    PLAIN = MODEL(X, STEPS)
SITES, STATE = _probe.sites, state(MODEL)
FITTING = {"rows": ROWS, "steps": STEPS, "branches": BRANCHES}


def run(edits: list[Edit], capture: Any = ()) -> tuple[Tensor, Record]:
    with torch.no_grad(), trace(MODEL, edits, capture, sites=SITES) as t:
        out = MODEL(X, STEPS)
    assert t.ledger.ok
    return out, t.record


def same(one: Tensor, other: Tensor) -> bool:
    """Equal bytes, so that NaN is equal to itself."""
    return one.shape == other.shape and one.contiguous().numpy().tobytes() == other.contiguous().numpy().tobytes()


def index_of(position: int | str) -> Any:
    """numpy's index for a position or slice."""
    return slice(*(int(end) if end else None for end in position.split(":"))) if isinstance(position, str) else position


def inside(select: Select, site: Site, shape: tuple[int, ...]) -> np.ndarray:
    """Where a selection without mask reaches, by numpy's own indexing."""
    found = np.ones(shape, dtype=bool)
    for key, axis in AXIS_OF.items():
        if (told := getattr(select, key)) is not None:
            line = np.zeros(shape[site.axes.index(axis)], dtype=bool)
            for one in told:
                line[index_of(one)] = True
            found &= line.reshape([-1 if letter == axis else 1 for letter in site.axes])
    return found


@settings(max_examples=60)
@given(strategies.edits(list(SITES), **FITTING))
def test_a_list_of_edits_reads_back_to_the_same_bytes_and_leaves_nothing(told: list[dict[str, Any]]) -> None:
    edits, text = [edit_from_dict(one) for one in told], io.StringIO()
    dumper = YAML(typ="safe", pure=True)
    dumper.default_flow_style = False           # as run folders are written; in flow style ruamel cannot read its own "?0"
    dumper.dump([edit.to_dict() for edit in edits], text)
    again = [edit_from_dict(one) for one in YAML(typ="safe").load(text.getvalue())]
    assert again == edits and [one.hash for one in again] == [one.hash for one in edits]
    assert [eval(repr(one), vars(core)) for one in edits] == edits
    assert same(run(edits)[0], run(again)[0])
    assert state(MODEL) == STATE and torch.equal(MODEL(X, STEPS), PLAIN)


@settings(max_examples=60)
@given(strategies.edits(list(SITES), **FITTING))
def test_rows_that_no_edit_means_do_not_move(told: list[dict[str, Any]]) -> None:
    limited = [edit_from_dict(one | {"rows": [0, 2]}) for one in told]
    assert torch.equal(run(limited)[0][1], PLAIN[1])


@settings(max_examples=60)
@given(strategies.selections(list(SITES), **FITTING))
def test_zero_reaches_exactly_what_is_selected_and_a_capture_keeps_exactly_that(drawn: tuple[Site, Select]) -> None:
    site, select = drawn
    plain, zeroed = run([], [site.name])[1], run([Zero(str(select))], [site.name])[1]
    kept = run([], [str(select)])[1]
    first = next(key for key in plain.firings if key.step in (None, 0))     # later ones lie downstream of it
    before, after = (record.entry(next(key for key in record.firings if key[1:3] == first[1:3])).tensor.numpy()
                     for record in (plain, zeroed))
    assert first.site == site.name
    steps = np.zeros(STEPS, dtype=bool)
    for one in select.steps or (":",):
        steps[index_of(one)] = True
    acts = bool(steps[0]) and (select.branch is None or first.branch in select.branch)
    wanted = np.where(inside(select, site, before.shape) & acts, 0, before)
    assert np.array_equal(after, wanted)
    if acts:
        part = kept.entry(next(key for key in kept.firings if key[1:3] == first[1:3])).tensor.numpy()
        assert np.array_equal(part.ravel(), before[inside(select, site, before.shape)])
