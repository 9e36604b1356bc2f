"""Who watches a training: told of parts, steps and losses. Nobody, unless `watched_by` says who.

Training computes the same whoever watches; a watcher can only ask it to end after the step in hand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path


class Watch:
    """The watcher that looks away: what a real one overrides.

    stopping    True: save a checkpoint after the step in hand, and raise KeyboardInterrupt
    """

    stopping = False

    def part(self, name: str, number: int, total: int, kept: bool = False) -> None:
        """Part `number` (from 1) of `total` begins, or is `kept` because an earlier training finished it."""

    def busy(self, what: str, done: int, total: int) -> None:
        """Something other than steps is under way, such as drawing clips: `done` of `total`."""

    def begin(self, name: str, done: int, steps: int, checkpoint: Path | None = None) -> None:
        """A network is about to take its steps; the first `done` of them come from `checkpoint`."""

    def step(self, done: int, loss: float) -> None:
        """So many steps are done; the loss of the last one."""

    def end(self) -> None:
        """The last step of the network is done."""

    def note(self, text: str) -> None:
        """Something else to tell, in words."""


_present: ContextVar[Watch] = ContextVar("watch", default=Watch())  # noqa: B039 (it has no state)


def present() -> Watch:
    """Whoever watches now."""
    return _present.get()


@contextmanager
def watched_by(watch: Watch) -> Iterator[Watch]:
    """Let `watch` be told of every training within the block."""
    token = _present.set(watch)
    try:
        yield watch
    finally:
        _present.reset(token)
