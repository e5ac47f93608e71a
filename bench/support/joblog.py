"""What workers saw of each run: when its jobs began and ended there. All by one host's monotonic clock."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.support.programs import get_json


@dataclass(frozen=True)
class Ran:
    """One job that a worker has run. `work_s` is less than its time there if jobs shared a core."""

    worker: str
    run: str
    number: int
    start_s: float
    end_s: float
    work_s: float


async def read_log(workers: Sequence[str]) -> list[Ran]:
    """Return all jobs that have ended since the workers' logs began."""
    logs = [(url, await get_json(f"{url}/log")) for url in workers]
    return [Ran(url, *job) for url, log in logs for job in log["jobs"]]  # type: ignore[attr-defined]


def worker_seconds(log: Sequence[Ran], run: str, since_s: float, until_s: float) -> float:
    """Return the work that a run's jobs got within a window: of a job at its edge, the part within.

    >>> worker_seconds([Ran("w", "a", 1, 0.0, 4.0, 2.0), Ran("w", "a", 2, 9.0, 10.0, 1.0)], "a", 2.0, 9.5)
    1.5
    """
    return sum(
        job.work_s * max(0.0, min(job.end_s, until_s) - max(job.start_s, since_s)) / (job.end_s - job.start_s)
        for job in log
        if job.run == run
    )


def has_all_s(log: Sequence[Ran], run: str, slots: int, since_s: float) -> float | None:
    """Return from when on, at or after `since_s`, so many jobs of a run are on workers at once; None: never.

    >>> log = [Ran("w", "a", 1, 0.0, 4.0, 4.0), Ran("w", "a", 2, 3.0, 5.0, 2.0)]
    >>> has_all_s(log, "a", 2, 1.0), has_all_s(log, "a", 1, 1.0), has_all_s(log, "a", 3, 1.0)
    (3.0, 1.0, None)
    """
    counts = _counts([job for job in log if job.run == run and job.end_s > since_s], since_s)
    return next((at_s for at_s, running in counts if running >= slots), None)


def most_at_once(log: Sequence[Ran]) -> int:
    """Return the most jobs that any worker has run at once."""
    workers = {job.worker for job in log}
    return max(running for worker in workers for _, running in _counts([job for job in log if job.worker == worker]))


def _counts(jobs: Sequence[Ran], since_s: float = -math.inf) -> Iterator[tuple[float, int]]:
    """Yield each moment at which a job begins or ends, with how many run from then on; all ends are after `since_s`."""
    running = 0
    for at_s, step in sorted([(max(job.start_s, since_s), 1) for job in jobs] + [(job.end_s, -1) for job in jobs]):
        running += step
        yield at_s, running


def slot_idle_s(log: Sequence[Ran], job: Ran) -> float:
    """Return how long the slot that a job took had been free: the time since the last end on its worker.

    >>> log = [Ran("w", "a", 1, 0.0, 4.0, 4.0), Ran("v", "a", 2, 0.0, 4.2, 4.2)]
    >>> slot_idle_s(log, Ran("w", "b", 1, 4.5, 5.0, 0.5))
    0.5
    """
    return job.start_s - max(other.end_s for other in log if other.worker == job.worker and other.end_s <= job.start_s)
