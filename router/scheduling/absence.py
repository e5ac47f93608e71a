"""Decides whether a job waits for workers that have been gone for too long: those of the fleet, or of its pool."""

import time
from collections.abc import Iterable, Iterator, Mapping

from router.fleet.snapshot import FleetView
from router.scheduling.messages import Reply
from router.scheduling.pending import Exhausted, NoRoom, NoWorkers, PendingJob


class Absence:
    """Since when there has been no worker. After `enough_s` without one, jobs are refused.

    The last reply tells of the whole fleet: whether a worker may get jobs and can be reached. Of a pool the snapshot
    tells whether one of its workers may get jobs, and the last reply whether one of these can be reached.
    """

    def __init__(self, view: FleetView, enough_s: float) -> None:
        self._view = view
        self._enough_s = enough_s
        self._fleet_since: float | None = None
        self._pools_since: dict[str, float] = {}
        self._unreached: tuple[str, ...] = ()
        self._routable_then: frozenset[str] = frozenset()

    def hear(self, reply: Reply) -> None:
        """Take over what the scheduler says of the whole fleet, and of pools that cannot be reached."""
        self._unreached = reply.unreached
        if reply.routable <= reply.away:
            self._fleet_since = self._fleet_since or time.monotonic()
        else:
            self._fleet_since = None

    def in_vain(self, jobs: Mapping[int, PendingJob]) -> Iterator[tuple[int, NoRoom]]:
        """Yield of these jobs, by their numbers, those that wait in vain, and why; the caller takes them out."""
        yield from self._exhausted(jobs)
        pools = {pending.placement.pool for pending in jobs.values()}
        self._look(pools)
        if any(self.since(pool) for pool in pools):
            for number, pending in list(jobs.items()):
                if pending.timer and self.is_enough_for(pending.job_since, pending.placement.pool):
                    yield number, NoWorkers()

    def _exhausted(self, jobs: Mapping[int, PendingJob]) -> Iterator[tuple[int, NoRoom]]:
        """Yield retries that have tried all workers that are left, after the fleet has become smaller."""
        snapshot = self._view.snapshot
        before, self._routable_then = self._routable_then, snapshot.routable
        if before == snapshot.routable:
            return
        for number, pending in list(jobs.items()):
            tried, its = pending.arrival.tried, pending.placement
            if tried and pending.timer and snapshot.able_in(its.pool, its.memory_mb).issubset(tried):
                yield number, Exhausted()

    def _look(self, pools: Iterable[str]) -> None:
        """Look at the pools for which jobs wait, and forget the others: they may have had workers meanwhile."""
        now, known = time.monotonic(), self._pools_since
        gone = {pool for pool in pools if self._is_gone(pool)}
        self._pools_since = {pool: known.get(pool, now) for pool in gone}

    def since(self, pool: str = "") -> float | None:
        """Return since when there has been no worker for jobs of this pool; None if there is one."""
        if self._fleet_since is not None or not self._is_gone(pool):
            return self._fleet_since
        return self._pools_since.setdefault(pool, time.monotonic())

    def is_enough_for(self, job_since: float, pool: str = "") -> bool:
        """Whether there has been no worker for long enough to refuse a job of this pool that came at `job_since`."""
        since = self.since(pool)
        return since is not None and time.monotonic() - max(since, job_since) >= self._enough_s

    def _is_gone(self, pool: str) -> bool:
        """Whether the pool, which is not that of all workers, has no worker that may get jobs and can be reached."""
        return bool(pool) and (pool in self._unreached or not self._view.snapshot.routable_in(pool))
