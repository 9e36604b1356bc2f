"""What the edits of a study ask of the batches that its samples stand in; told before anything runs.

A row of a batch is a place, not a sample: which sample stands there hangs on `batch`. So what goes by rows is allowed where every
batch holds all samples, as row r is then sample r however large a batch may be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from wanlab.core import Patch
from wanlab.core.index import plain, positions
from wanlab.core.quote import quoted

if TYPE_CHECKING:
    from .plan import CellPlan, Chunk
    from .source import Source


@dataclass(frozen=True)
class Batches:
    """The batches of a study, in order, and the source of their samples; rows: as many as a batch has, unless it is the last."""

    chunks: Sequence[Chunk]
    source: Source
    rows: int

    def check(self, edit: Any, pipe: Any) -> None:
        """Raise ValueError for an edit that goes by rows where these are no samples, or by words that a sample's prompt lacks."""
        if self.source.n > self.rows and (told := _by_rows(edit)):
            raise ValueError(f"{told}, and which samples those are hangs on batch, which is {self.rows} of {self.source.n}: with "
                             f"batch: {self.source.n} row r is sample r, else leave it out, or study those samples by themselves")
        if isinstance(edit, Patch) and not edit.record.one_sample and len(self.chunks) > 1:
            raise ValueError(f"{edit.record!r} holds several samples, and nobody knows which of them is meant in which of "
                             f"{len(self.chunks)} batches: a record of one sample is for all; of several, row r is for sample r "
                             f"under one seed, with batch: {self.source.n}")
        if edit.words is not None:
            self._words(edit, pipe)

    @cached_property
    def _prompts(self) -> list[str]:
        return self.source.prompts(range(self.source.n))

    def _words(self, edit: Any, pipe: Any) -> None:
        prompts, samples = self._prompts, range(self.source.n)
        meant = samples if edit.rows is None else positions(edit.rows, self.source.n, "rows")
        request = pipe.request(None, prompts, 0)
        for sample in {prompts[sample]: sample for sample in reversed(meant)}.values():    # the first of each prompt
            for word in edit.words:
                try:
                    pipe.tokens_of(request, word, sample)
                except LookupError as error:
                    unit = self.source.units([sample])[0]
                    raise ValueError(f"sample {sample} ({unit}, {quoted(prompts[sample])}): {error.args[0]}") from None

    def check_all(self, edits: Sequence[Any], pipe: Any, settings: Mapping[str, Any]) -> None:
        """Raise what the pipeline has against these edits together, in a batch as it will be: the first, and the last, which may be
        shorter. settings: steps and guidance of a request."""
        for chunk, where in self._sizes():
            request = pipe.request(None, [self._prompts[sample] for sample in chunk.indices], chunk.noise_seeds, **settings)
            try:
                pipe.check(edits, request)
            except ValueError as error:
                raise ValueError(f"{where}{error}") from error if where else None

    def _sizes(self) -> Iterator[tuple[Chunk, str]]:
        first, last = self.chunks[0], self.chunks[-1]
        yield first, ""
        if len(last.indices) != len(first.indices):
            yield last, f"in the last batch, of {len(last.indices)} where the others have {len(first.indices)}: "

    def mixed(self, cells: Mapping[str, CellPlan]) -> list[str]:
        """What to say of cells whose samples take something from others of their batch."""
        names = [name for name, cell in cells.items() if any(map(_mixes, cell.edits))]
        if not names or self.source.n <= self.rows:
            return []
        why = "a sample takes from the others of its batch, so these numbers hang on batch"
        return [f"{', '.join(names)}: {why}, which is {self.rows}"]


def _mixes(edit: Any) -> bool:
    """Whether it takes from other samples; of a record of several each sample takes its own."""
    return edit.mixes_rows and not isinstance(edit, Patch)


def _by_rows(edit: Any) -> str | None:
    """How an edit goes by rows, if it does."""
    if edit.rows is not None:
        return f"rows={plain(edit.rows)} are places in a batch"
    if edit.mask is not None and edit.mask.rows is not None:
        return f"the mask has {edit.mask.rows} pictures, one for each row of a batch"
    return None
