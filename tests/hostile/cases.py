"""How bad input is tried: so many cases of each kind, each within a time, and what a refusal has to be.

The default tests try a sample; marked `slow` they try 10,000 cases, the same in every run. WANLAB_CASES=100000 in the
environment tries that many instead, other ones each time.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from wanlab.cli import _is_mistake

WHOLE = 10_000
SHARES = {  # cases of the whole, and of a sample
    "study files": (1900, 12),
    "training files": (300, 10),
    "settings": (1000, 10),
    "selections": (1040, 8),
    "edits": (900, 8),
    "commands": (800, 8),
    "tables": (800, 15),
    "pictures": (1000, 20),
    "videos": (450, 4),
    "checkpoints": (700, 15),
    "torch files": (250, 5),
    "pipelines": (250, 3),
    "records": (300, 6),
    "prompts": (250, 4),
    "run folders": (60, 3),
}
ASKED = int(os.environ.get("WANLAB_CASES", WHOLE))
SECONDS, LONG = 20.0, 300.0  # of one case, of this process and on the clock: far beyond what any takes, on a busy machine too
LONGEST = 6_000  # letters of a message

full = pytest.mark.parametrize("whole", [pytest.param(False, id="sample"), pytest.param(True, id="all", marks=pytest.mark.slow)])


class Hangs(BaseException):
    """A case that does not come to an end; nothing that catches exceptions holds it back."""


@contextmanager
def within(seconds: float = SECONDS) -> Iterator[None]:
    """The block ends within so many seconds of the processor, or the test fails."""

    def stop(number: int, frame: Any) -> None:
        raise Hangs(f"no end after {seconds:g} s of the processor, or {LONG:g} s")

    timers = {signal.SIGPROF: (signal.ITIMER_PROF, seconds), signal.SIGALRM: (signal.ITIMER_REAL, LONG)}
    before = {number: signal.signal(number, stop) for number in timers}
    for timer, limit in timers.values():
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for timer, _ in timers.values():
            signal.setitimer(timer, 0)
        for number, handler in before.items():
            signal.signal(number, handler)


def every(kind: str, whole: bool, given_by: st.SearchStrategy[Any], case: Callable[[Any], None]) -> None:
    """Try `case` on what the strategy gives, as often as the share of its kind says."""
    many, few = SHARES[kind]
    count = max(1, many * ASKED // WHOLE) if whole else few

    @settings(
        max_examples=count,
        derandomize=ASKED == WHOLE,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
    )
    @given(given_by)
    def one(value: Any) -> None:
        with within():
            case(value)

    one()


def answer(call: Callable[[], Any], *kinds: type[BaseException]) -> Any:
    """What a call gives, or the message with which it refuses: of one of `kinds` (else any), a mistake to the command line,
    in words that a terminal can show."""
    try:
        return call()
    except Exception as error:
        assert _is_mistake(error), f"the command line would show a traceback of {type(error).__name__}: {error}"
        assert not kinds or isinstance(error, kinds), f"{type(error).__module__}.{type(error).__name__}: {error}"
        said = str(error)
        assert said.strip() and len(said) <= LONGEST, f"{len(said)} letters"
        return said
