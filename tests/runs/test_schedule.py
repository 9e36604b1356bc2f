"""Schedules: what follows from the order of work alone, against sums done by hand and bounds that are theorems."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wanlab.runs.schedule import Job, simulate


@st.composite
def graphs(draw: st.DrawFn) -> list[Job]:
    jobs: list[Job] = []
    for number in range(draw(st.integers(1, 25))):
        needs = draw(st.sets(st.integers(0, number - 1), max_size=3)) if number else set()
        jobs.append(Job(f"s{number % 3}", draw(st.integers(0, 20)) / 2, draw(st.integers(0, 4)) / 2, tuple(sorted(needs))))
    return jobs


def longest(jobs: list[Job]) -> float:
    """The longest chain, forwards."""
    ends: list[float] = []
    for job in jobs:
        ends.append(job.seconds + max((ends[needed] for needed in job.needs), default=0.0))
    return max(ends)


@settings(max_examples=100, deadline=None)
@given(graphs(), st.integers(1, 6))
def test_a_schedule_lies_between_its_bound_and_grahams(jobs: list[Job], workers: int) -> None:
    found = simulate(jobs, workers)
    total = sum(job.seconds for job in jobs)
    assert found.bound == max(longest(jobs), total / workers)
    assert found.bound - 1e-9 <= found.wall <= total / workers + (1 - 1 / workers) * longest(jobs) + 1e-9  # Graham 1969
    assert found.busy == total and 0 <= found.efficiency <= 1 + 1e-9


@settings(max_examples=50, deadline=None)
@given(graphs())
def test_one_worker_does_everything_and_enough_workers_wait_for_the_longest_chain(jobs: list[Job]) -> None:
    alone = simulate(jobs, 1)
    assert alone.wall == pytest.approx(sum(job.seconds for job in jobs)) and alone.read == 0
    assert alone.written == pytest.approx(sum(job.gib for job in jobs))
    assert simulate(jobs, len(jobs)).wall == pytest.approx(longest(jobs))


def test_what_moves_between_workers_takes_time_and_is_counted() -> None:
    jobs = [Job("a", 4, 2.0), Job("b", 1, 0.0, (0,)), Job("b", 1, 0.0, (0,)), Job("c", 1, 0.0, (1, 2))]
    one, two = simulate(jobs, 1, gib_per_second=1.0), simulate(jobs, 2, gib_per_second=1.0, start=10)
    assert (one.wall, one.read, one.written, one.peak) == (2 + 4 + 1 + 1 + 1, 0.0, 2.0, 2.0)
    # a: 10 to 16 on the first; a copy of b beside it waits 2 s for the other worker to read: 16 to 19; c after both
    assert two.wall == 16 + 3 + 1 and two.read == 2.0 and two.moving == 2 + 2
    assert [stage for stage, _, _ in two.path] == ["a", "b", "c"] and two.bound == 10 + 6


def test_impossible_schedules() -> None:
    with pytest.raises(ValueError, match="at least one worker"):
        simulate([], 0)
    with pytest.raises(ValueError, match=r"job 0 \(a\) needs one that stands after it"):
        simulate([Job("a", 1, needs=(1,)), Job("b", 1)], 1)
