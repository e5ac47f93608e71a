"""Counts in plain numbers, where jobs pass, what this process has done since the counts were last taken.

Metrics cost a job nothing else: the publisher takes the numbers by a timer. This module knows neither Prometheus nor
Redis.
"""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from router.fleet.journal.failed_job import MOST, FailedJob
from router.fleet.stats import BOUNDS_S
from router.policy.verdict import Kind, Outcome

# The endpoint under which requests are counted that were refused whatever their endpoint.
NO_JOB = "other"
# Looked up once, because looking up an enum's member costs as much as all the rest of a count.
_RESULT, _OWN_RESULT = Kind.RESULT, Outcome.RESULT
# Of a lasting flood of failed jobs, so many are kept for the journal between two takings; its first MOST are all kept.
STEADY_FAILURES = 20
_NO_FAILURES = frozenset({Kind.BUSY, Kind.NO_MEANS})  # no failures of the worker


class Timing:
    """A histogram of times. `counts` has a number for each of BOUNDS_S, and one for the times above all bounds.

    >>> timing = Timing()
    >>> timing.add(0.0005)
    >>> timing.add(501)
    >>> timing.counts[1], timing.counts[-1], timing.total_s
    (1, 1, 501.0005)
    """

    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.total_s = 0.0

    @classmethod
    def sum(cls, timings: Iterable[Self]) -> Self:
        """Return one timing with all of their times."""
        whole = cls()
        for timing in timings:
            whole.counts = [one + other for one, other in zip(whole.counts, timing.counts, strict=True)]
            whole.total_s += timing.total_s
        return whole

    @property
    def count(self) -> int:
        """How many times were counted."""
        return sum(self.counts)

    def add(self, seconds: float) -> None:
        """Count one time."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.total_s += seconds


@dataclass(slots=True)
class AttemptCounts:
    """The attempts on one worker: all, those without a result, and how long all took together."""

    jobs: int = 0
    failures: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class TenantCounts:
    """One tenant's jobs: all, those without a result, how long they had workers, and how long they waited for these.

    `adopted` jobs have got what others had left behind; `reused` ones the answers of identical ones, whose runs took
    `saved_s`.
    """

    jobs: int = 0
    failures: int = 0
    seconds: float = 0.0
    queue_s: float = 0.0
    adopted: int = 0
    reused: int = 0
    saved_s: float = 0.0


@dataclass(slots=True)
class Counts:
    """All counts between two takings.

    `jobs` and `refusals` (requests that never became jobs) are by endpoint, status and outcome. `retries` are by how
    the attempt before had ended. `unfunded` retries exceeded the fleet's budget. `adopted` jobs have got a place, a run
    or an answer that others had left behind. `hedges` are second runs beside the first; of `hedges_counted` the answer
    counted. `cut_answers` broke off when their clients had a part of them. `redis` are the scheduler's calls that Redis
    answered. `failures` are jobs for the journal, and when each ended. The default tenant is "". KnownTenants bounds
    how many tenants there are.
    """

    jobs: defaultdict[tuple[str, int, Outcome], Timing] = field(default_factory=lambda: defaultdict(Timing))
    refusals: defaultdict[tuple[str, int, Outcome], int] = field(default_factory=lambda: defaultdict(int))
    waits: Timing = field(default_factory=Timing)
    attempts: defaultdict[Kind, Timing] = field(default_factory=lambda: defaultdict(Timing))
    workers: defaultdict[str, AttemptCounts] = field(default_factory=lambda: defaultdict(AttemptCounts))
    tenants: defaultdict[str, TenantCounts] = field(default_factory=lambda: defaultdict(TenantCounts))
    retries: defaultdict[Kind, int] = field(default_factory=lambda: defaultdict(int))
    unfunded: int = 0
    adopted: int = 0
    hedges: int = 0
    hedges_counted: int = 0
    cut_answers: int = 0
    redis: Timing = field(default_factory=Timing)
    redis_failures: int = 0
    failures: list[tuple[float, FailedJob]] = field(default_factory=list)


class Recorder:
    """Counts what happens in this process."""

    def __init__(self) -> None:
        self._counts = Counts()
        self._room_for_failures = MOST

    def take(self) -> Counts:
        """Return the counts since the last taking."""
        taken, self._counts = self._counts, Counts()
        self._room_for_failures = min(MOST, self._room_for_failures + STEADY_FAILURES)
        return taken

    @property
    def keeps_failures(self) -> bool:
        """Whether another failed job is kept; of a flood only some are, so that it costs little."""
        return self._room_for_failures > 0

    def job_failed(self, ended_at: float, job: FailedJob) -> None:
        """Keep a failed job, which ended at this moment (time.monotonic), for the journal."""
        self._counts.failures.append((ended_at, job))
        self._room_for_failures -= 1

    def job_ended(self, endpoint: str, status: int, outcome: Outcome, seconds: float, tenant: str) -> None:
        """Count a job that has its answer, `seconds` after it came."""
        self._counts.jobs[endpoint, status, outcome].add(seconds)
        counts = self._counts.tenants[tenant]
        counts.jobs += 1
        if outcome is not _OWN_RESULT and outcome.is_error:
            counts.failures += 1

    def refused(self, status: int, outcome: Outcome, endpoint: str = NO_JOB) -> None:
        """Count a request that never became a job."""
        self._counts.refusals[endpoint, status, outcome] += 1

    def waited(self, seconds: float, tenant: str) -> None:
        """Count a wait for a lease, whether the job got one or not."""
        self._counts.waits.add(seconds)
        self._counts.tenants[tenant].queue_s += seconds

    def attempt_ended(self, worker_url: str, kind: Kind, seconds: float, tenant: str) -> None:
        """Count an attempt that took its worker `seconds`; the worker's time and the tenant's are the same."""
        counts = self._counts
        counts.attempts[kind].add(seconds)
        counts.tenants[tenant].seconds += seconds
        worker = counts.workers[worker_url]
        worker.jobs += 1
        worker.seconds += seconds
        if kind is not _RESULT and kind not in _NO_FAILURES:
            worker.failures += 1

    def answer_cut(self, worker_url: str, tenant: str) -> None:
        """Count an answer that broke off when its client had a part of it; it had counted as a result."""
        self._counts.cut_answers += 1
        self._counts.workers[worker_url].failures += 1
        self._counts.tenants[tenant].failures += 1

    def retried(self, cause: Kind) -> None:
        """Count a retry."""
        self._counts.retries[cause] += 1

    def retry_unfunded(self) -> None:
        """Count a retry that did not happen because the fleet's retry budget is spent."""
        self._counts.unfunded += 1

    def reused(self, tenant: str, saved_s: float) -> None:
        """Count a job that has got the answer of an identical one, whose run took `saved_s`."""
        counts = self._counts.tenants[tenant]
        counts.reused += 1
        counts.saved_s += saved_s

    def adopted(self, tenant: str) -> None:
        """Count a job that has got what another one had left behind."""
        self._counts.adopted += 1
        self._counts.tenants[tenant].adopted += 1

    def hedged(self) -> None:
        """Count a second run of a job, beside the first."""
        self._counts.hedges += 1

    def hedge_counted(self) -> None:
        """Count a job that got its answer from a second run."""
        self._counts.hedges_counted += 1

    def redis_answered(self, seconds: float) -> None:
        """Count a call of the scheduler that Redis answered."""
        self._counts.redis.add(seconds)

    def redis_failed(self) -> None:
        """Count a call of the scheduler that Redis did not answer."""
        self._counts.redis_failures += 1
