"""`batch: auto`: found by trial on a device whose memory decides it, kept by the run folder, never tried again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.runs.toy import STUDY, Toy, bench
from wanlab.runs import fitting
from wanlab.runs.files import RunFolderError
from wanlab.runs.fitting import largest
from wanlab.runs.store import RunFolder

AUTO = STUDY.replace("batch: 2", "batch: auto").replace("n: 5", "n: 20")


class Small(Toy):
    """A toy on a device with memory for `most` rows; `tried` lists how many rows each stage was given."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.most, self.tried = 10**9, []

    def run_node(self, name: str, inputs: Any, request: Any, **options: Any) -> Any:
        self.tried.append(len(request))
        if len(request) > self.most:
            raise torch.OutOfMemoryError("no room")
        return super().run_node(name, inputs, request, **options)

    def swap(self, stage: str, variant: str, init: str | None = None) -> Small:
        other = super().swap(stage, variant, init)
        other.most, other.tried = self.most, self.tried
        return other


@pytest.fixture
def pipe() -> Small:
    return Small()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> None:
    """This CPU counts as a device whose memory decides."""
    monkeypatch.setattr(fitting, "scarce", lambda device: True)


@pytest.mark.parametrize(("room", "guess", "most", "expected", "tried"), [
    (100, 8, 1000, 64, [8, 16, 32, 64, 128]), (100, 8, 48, 48, [8, 16, 32, 48]), (5, 8, 1000, 4, [8, 4]),
    (1, 8, 1000, 1, [8, 4, 2, 1]),
    (100, 8, 3, 3, [3]), (8, 8, 1000, 8, [8, 16]),
])  # fmt: skip
def test_a_guess_grows_while_it_fits_and_else_shrinks(room: int, guess: int, most: int, expected: int, tried: list) -> None:
    asked: list[int] = []
    assert largest(lambda size: asked.append(size) or size <= room, guess, most) == expected and asked == tried


def test_a_device_without_room_for_one_sample_is_told() -> None:
    with pytest.raises(torch.OutOfMemoryError, match="no memory for one sample"):
        largest(lambda size: False, 8, 100)


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize(("most", "pack", "expected"), [(10**9, 1, 20), (17, 1, 16), (5, 1, 4), (17, 2, 8)])
def test_the_batch_is_what_fits_and_the_folder_keeps_it(run: Callable[..., Any], pipe: Small, most: int, pack: int,
                                                        expected: int) -> None:
    pipe.most = most
    root, outcome = run("out", f"share.pack={pack}", text=AUTO)
    assert not outcome.failed and RunFolder(root).study().batch == expected
    pipe.most, before = 10**9, len(pipe.tried)      # a larger device goes on as it was begun, and tries nothing
    again, outcome = run("out", f"share.pack={pack}", text=AUTO)
    assert len(pipe.tried) == before and len(outcome.before) == 5
    stated, _ = run("stated", f"share.pack={pack}", f"batch={expected}", text=AUTO)
    keys = [sorted(path.name for path in (folder / "cells").iterdir()) for folder in (again, stated)]
    assert keys[0] == keys[1]                       # found or stated: the same cells under the same keys


@pytest.mark.usefixtures("device")
def test_half_of_a_run_goes_on_with_its_batch(run: Callable[..., Any], pipe: Small) -> None:
    pipe.most = 5
    root, _ = run("out", text=AUTO)
    whole = {path.name for path in (root / "cells").iterdir()}
    (lost,) = (root / "cells").glob("detail-*")
    (lost / "DONE").unlink()
    pipe.most = 10**9
    _, outcome = run("out", text=AUTO)
    assert outcome.done == ["detail"] and max(pipe.tried[-5:]) == 4 and {path.name for path in (root / "cells").iterdir()} == whole
    with pytest.raises(RunFolderError, match="batch: 4 -> 16"):
        run("out", "batch=16", text=AUTO)


def test_a_cpu_takes_the_guess_and_tries_nothing(run: Callable[..., Any], pipe: Small) -> None:
    root, _ = run("out", text=AUTO)
    assert RunFolder(root).study().batch == 8 and max(pipe.tried) == 8


def test_what_the_device_decides_is_planned_with_the_guess() -> None:
    assert [len(chunk.indices) for chunk in bench(text=AUTO).plan.chunks][::2] == [8, 8, 4]
