"""How many rows a device has memory for: `batch: auto`, as where a study says nothing, found once by trial before it runs.

A guess doubles while it fits, or halves until it does. What is found stands in the run folder's study.yaml like a batch that the
study had stated: it is part of every content key, so each later run of the folder takes it and tries nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from .cell import Workbench, WorkbenchSpec
from .engine import Engine
from .lock import alone
from .plan import Chunk, Task, rows_of
from .spec import AUTO, GUESS, Study
from .store import RunFolder


def largest(fits: Callable[[int], bool], guess: int, most: int) -> int:
    """The most rows that fit, of `guess` doubled and halved again and again; no more than `most`.

    Raises torch.OutOfMemoryError where one row does not fit.
    """
    size = min(guess, most)
    if fits(size):
        while size < most and fits(min(2 * size, most)):
            size = min(2 * size, most)
        return size
    while size > 1:
        size //= 2
        if fits(size):
            return size
    raise torch.OutOfMemoryError("the device has no memory for one sample of this study")


def recorded(study: Study, folder: RunFolder) -> Study:
    """The study with the batch that its folder was begun with, where the study leaves it to the device."""
    return study.model_copy(update={"batch": folder.study().batch}) if study.batch == AUTO and folder.begun else study


def settled(study: Study, folder: RunFolder, runner: Engine, spec: WorkbenchSpec) -> Study:
    """The study with its batch as a number: as stated, as recorded, or as found where tasks run and then written down in its
    folder; on a CPU the guess.

    Shards that begin together look one after the other, so that the first one's batch is everybody's. Raises RunFolderError
    for a folder that cannot be written, torch.OutOfMemoryError or EngineError where no sample fits.
    """
    if study.batch != AUTO:
        return study
    if not scarce(spec.device):
        return study.model_copy(update={"batch": GUESS})
    with alone(folder.root / ".lock-batch"):
        study = recorded(study, folder)
        if study.batch == AUTO:
            study = study.model_copy(update={"batch": runner.there(trial, spec)})
            folder.begin(study)
    return study


def scarce(device: str) -> bool:
    """Whether memory decides the batch there. A CPU gains nothing by more rows, and its memory is everybody's."""
    return torch.device(device).type != "cpu"


def trial(spec: WorkbenchSpec) -> int:
    """How many samples go through one step of every kind of cell, and through the metrics, in the memory of the device."""
    study = spec.study
    bench = replace(spec, resolved=_small(study).resolved()).open()
    return largest(lambda size: _fits(bench, size, size * study.share.pack), GUESS, bench.source.n)


def _small(study: Study) -> Study:
    """One cell for each pipeline and guidance of the study, without edits, in one step: what is held at once is the same in all."""
    kinds: dict[Any, str] = {}
    for name in sorted(study.cells, key=lambda name: name != study.baseline):
        kinds.setdefault((tuple(sorted(study.cells[name].swap.items())), study.sampler_of(name).guidance), name)
    cells = {}
    for name in kinds.values():
        cell = study.cells[name]
        sampler = cell.sampler.model_copy(update={"steps": 1})
        cells[name] = type(cell)(swap=cell.swap, sampler=sampler)
    share = study.share.model_copy(update={"cache": False, "fork": False, "pack": 1})
    report = study.report.model_copy(update={"videos": 0})
    return study.model_copy(update={"batch": GUESS, "cells": cells, "share": share, "report": report, "seeds": study.seeds[:1]})


def _fits(bench: Workbench, size: int, rows: int) -> bool:
    """Whether a batch of `rows` (`size` samples, for as many cells as run together) goes through whole."""
    chunk = Chunk(0, bench.study.seeds[0], tuple(row % size for row in range(rows)))
    bench.plan = replace(bench.plan, chunks=[chunk], rows=[rows_of(chunk, bench.source)])
    bench.halved.clear()
    try:
        for name in bench.plan.cells:
            bench.part(Task(name, 0))
            if bench.halved:
                return False
    except torch.OutOfMemoryError:
        return False
    finally:
        bench.forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True
