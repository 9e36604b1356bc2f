"""What a schedule would take: stage runs handed to workers as they become ready, in the order of the plan.

List scheduling over the stage graph: a run starts when all that it reads is there and a worker is free; of several, the
one that the plan names first goes first, on the worker that holds what it reads if that is free. What another worker made
comes from a common cache, and everything made is written to it. Nothing here measures: seconds, sizes and the cache's speed
are those that are given.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Job:
    """One stage run: its stage, its seconds on a worker, the GiB that it writes, and the jobs (by number) that it reads."""

    stage: str
    seconds: float
    gib: float = 0.0
    needs: tuple[int, ...] = ()


@dataclass(frozen=True)
class Schedule:
    """What came out. Times in seconds, sizes in GiB.

    wall      from the start of the workers to the last result
    busy      seconds of stage runs, over all workers; moving: seconds that workers waited for the cache
    read, written   traffic with the cache; peak: the most that it must hold at once for what is still to be read
    path      the chain that ended last: (stage, runs, seconds)
    bound     no schedule can be shorter: the longest chain, or all work shared out evenly
    """

    workers: int
    wall: float
    busy: float
    moving: float
    read: float
    written: float
    peak: float
    path: tuple[tuple[str, int, float], ...]
    bound: float

    @property
    def efficiency(self) -> float:
        """Share of the workers' time that went into stage runs."""
        return self.busy / (self.workers * self.wall) if self.wall else 1.0

    @property
    def hours(self) -> float:
        """Worker hours that are taken, waiting included."""
        return self.workers * self.wall / 3600


def ways(jobs: Sequence[Job]) -> list[float]:
    """Seconds from the start of each job to the end of the longest chain that it begins. Jobs stand after what they need."""
    after = [0.0] * len(jobs)
    for number in range(len(jobs) - 1, -1, -1):
        after[number] += jobs[number].seconds
        for needed in jobs[number].needs:
            after[needed] = max(after[needed], after[number])
    return after


def simulate(jobs: Sequence[Job], workers: int, gib_per_second: float = 0.0, start: float = 0.0) -> Schedule:
    """The schedule of `jobs` on so many equal workers.

    Args:
        jobs: each after those that it needs.
        gib_per_second: of the cache, for each worker; 0: reading and writing take no time.
        start: seconds until a worker is ready (weights on the device).

    Raises ValueError for a job that needs a later one, and for less than one worker.
    """
    if workers < 1:
        raise ValueError(f"a schedule needs at least one worker, got {workers}")
    for number, job in enumerate(jobs):
        if any(needed >= number for needed in job.needs):
            raise ValueError(f"job {number} ({job.stage}) needs one that stands after it")
    users: list[list[int]] = [[] for _ in jobs]
    waiting = [len(set(job.needs)) for job in jobs]
    for number, job in enumerate(jobs):
        for needed in set(job.needs):
            users[needed].append(number)
    ready = [number for number in range(len(jobs)) if not waiting[number]]  # sorted, and so a heap
    idle = dict.fromkeys(range(min(workers, len(jobs))))  # in the order in which they became free; more than jobs would stay so
    running: list[tuple[float, int, int]] = []
    maker, last, readers = [-1] * len(jobs), [-1] * len(jobs), [len(row) for row in users]
    clock, moving, read, written, held, peak, end = start, 0.0, 0.0, 0.0, 0.0, 0.0, -1
    while ready or running:
        while ready and idle:
            number = heapq.heappop(ready)
            job = jobs[number]
            worker = next((maker[needed] for needed in job.needs if maker[needed] in idle), next(iter(idle)))
            del idle[worker]
            come = sum(jobs[needed].gib for needed in set(job.needs) if maker[needed] != worker)
            pause = (come + job.gib) / gib_per_second if gib_per_second else 0.0
            maker[number] = worker
            read, written, moving = read + come, written + job.gib, moving + pause
            heapq.heappush(running, (clock + pause + job.seconds, number, worker))
        clock, number, worker = heapq.heappop(running)
        idle[worker] = None
        end = number
        held += jobs[number].gib
        peak = max(peak, held)
        if not readers[number]:
            held -= jobs[number].gib
        for needed in set(jobs[number].needs):
            readers[needed] -= 1
            held -= 0.0 if readers[needed] else jobs[needed].gib
        for user in users[number]:
            waiting[user] -= 1
            if not waiting[user]:
                last[user] = number
                heapq.heappush(ready, user)
    busy = sum(job.seconds for job in jobs)
    bound = start + max(max(ways(jobs), default=0.0), busy / workers)
    return Schedule(workers, clock, busy, moving, read, written, peak, _path(jobs, last, end), bound)


def _path(jobs: Sequence[Job], last: Sequence[int], end: int) -> tuple[tuple[str, int, float], ...]:
    """The stages of the chain that ended with `end`, in order, each with its runs and seconds."""
    count: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    order: list[str] = []
    while end >= 0:
        stage = jobs[end].stage
        order.append(stage)
        count[stage] += 1
        seconds[stage] += jobs[end].seconds
        end = last[end]
    return tuple((stage, count[stage], float(seconds[stage])) for stage in dict.fromkeys(reversed(order)))
