"""The videos of some cells on one batch: made through the stage cache, forks and packs inside."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from wanlab.data.clip import Clips
from wanlab.graph import PackError, StageCache, Walk

from .plan import CellPlan, Chunk, Plan
from .spec import Sampler

Notify = Callable[[str, str, int, int], None]


class Videos:
    """Of `cells`, each made when asked for. clips, prompts: of the batch's rows; notify: told cell, stage, steps done, steps;
    fits: by stage, the rows that the device has memory for, as far as that is known."""

    def __init__(self, plan: Plan, chunk: Chunk, cells: Sequence[str], clips: Clips, prompts: list[str], cache: StageCache,
                 notify: Notify, fits: dict[str, int]) -> None:
        self.chunk, self.cells = chunk, tuple(cells)
        self._plan, self._clips, self._prompts, self._cache = plan, clips, prompts, cache
        self._notify, self._fits = notify, fits
        self._requests: dict[tuple[Sampler, bool, bool], Any] = {}     # one for all cells that ask the same: each holds the images
        self._walks: dict[bool, Walk] = {}

    def of(self, cell: str) -> Tensor:
        """b f c h w in [0, 1], on the CPU. What was to run as rows of one batch and failed is made by the cell alone."""
        try:
            return self._walk(pack=True).result(cell)["video"]
        except PackError:
            return self._walk(pack=False).result(cell)["video"]

    def close(self) -> None:
        """Forget what is of no use in another batch."""
        for walk in self._walks.values():
            walk.close()
        self._walks.clear()

    def _walk(self, pack: bool) -> Walk:
        if pack not in self._walks:
            work = self._plan.work(self.chunk.number, self.cells, pack)
            self._walks[pack] = Walk(work, self.cells, self._setting, self._cache, self._notify, self._fits)
        return self._walks[pack]

    def _setting(self, name: str) -> tuple[Any, Any]:
        """The pipeline of a cell and its request for these rows."""
        cell = self._plan.cells[name]
        asked = cell.sampler, cell.pipe.takes_image, cell.pipe.takes_last
        if asked not in self._requests:
            self._requests[asked] = cell.pipe.request(
                self._clips.first if cell.pipe.takes_image else None, self._prompts, self.chunk.noise_seeds,
                negative=negatives(cell.sampler, len(self._prompts)), **cell.sampler.asked, **last_frame(cell, self._clips))
        return cell.pipe, self._requests[asked]


def last_frame(cell: CellPlan, clips: Clips) -> dict[str, Any]:
    """What only some pipelines are asked: a last frame, where the data have it."""
    return {"last_image": clips.last} if cell.pipe.takes_last and clips.last is not None else {}


def negatives(sampler: Sampler, rows: int) -> list[str] | None:
    """The negative prompt for every row, or None for the null condition."""
    return None if sampler.negative is None else [sampler.negative] * rows
