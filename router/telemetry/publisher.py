"""Publishes once a second what the recorder has: counts to Prometheus' values and to Redis, failed jobs to Redis.

A count that Redis did not confirm in time is sent again: it may count twice, but it is never lost.
"""

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise

from router.fleet.counters import Counters
from router.fleet.journal.failed_job import MOST, FailedJob
from router.fleet.journal.failures import ENTRIES_A_CALL, Failures
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.fleet.snapshot import FleetView
from router.fleet.stats import BOUNDS_S, Stats, TenantStats, WorkerStats, took, waited
from router.policy.tenants import DEFAULT
from router.telemetry.prometheus import Metrics, ProcessState
from router.telemetry.recorder import Counts, Recorder, Timing
from router.telemetry.scaling import Scaling

EVERY_S = 1.0


class Publisher:
    """Publishes this process' counts: each second while `run` runs, and a last time by `finish`."""

    def __init__(
        self,
        recorder: Recorder,
        metrics: Metrics,
        redis: RedisClient,
        view: FleetView,
        state: Callable[[], ProcessState],
        scaling: Scaling,
    ) -> None:
        self._recorder = recorder
        self._metrics = metrics
        self._counters = Counters(redis)
        self._view = view
        self._state = state
        self.scaling = scaling
        self._unsent = Stats()  # to Redis
        self._failures = Failures(redis)
        self._unsent_failures: list[tuple[float, FailedJob]] = []

    async def run(self) -> None:
        """Publish until cancelled."""
        while True:
            self._count()
            await asyncio.to_thread(self._metrics.share)  # in a thread: jobs must not wait for a disk
            with suppress(RedisUnavailable):
                await self._send_to_fleet()
                await self._send_failures()
            await asyncio.sleep(EVERY_S)

    async def finish(self) -> None:
        """Publish the last counts, before the process ends."""
        self._count()
        self._metrics.share()
        with suppress(RedisUnavailable):
            while self._unsent:
                await self._send_to_fleet()
            await self._send_failures()

    async def page(self, accept: str) -> tuple[bytes, str]:
        """Return the page of `GET /metrics` for this Accept header, and its content type."""
        self._count()
        snapshot, usage = self._view.snapshot, None
        with suppress(RedisUnavailable):
            usage = await self._counters.usage([record.worker.url for record in snapshot.state.records])
        # In a thread, because writing down 1,000 workers takes long enough to hold up jobs.
        wanted = [] if usage is None else self.scaling.wanted(snapshot, usage)
        return await asyncio.to_thread(self._metrics.page, snapshot, usage, wanted, accept)

    async def processes(self) -> tuple[int, int]:
        """Return how many processes this router has, and how many of them give leases without Redis."""
        return await asyncio.to_thread(self._metrics.processes)

    def _count(self) -> None:
        counts = self._recorder.take()
        self._unsent.add(for_fleet(counts))
        self._keep(counts.failures)
        self._metrics.add(counts)
        self._metrics.set_state(self._state())

    async def _send_to_fleet(self) -> None:
        stats = self._unsent.take()
        if not stats:
            return
        try:
            await self._counters.count(stats)
        except RedisUnavailable:
            self._unsent.add(stats)
            raise

    def _keep(self, failures: Sequence[tuple[float, FailedJob]]) -> None:
        """Add failed jobs to those that are to be sent; while Redis is away, the last MOST stay."""
        if failures:
            self._unsent_failures = [*self._unsent_failures, *failures][-MOST:]

    async def _send_failures(self) -> None:
        while self._unsent_failures:
            unsent = self._unsent_failures
            sent, self._unsent_failures = unsent[:ENTRIES_A_CALL], unsent[ENTRIES_A_CALL:]
            try:
                await self._failures.add(sent, time.monotonic())
            except RedisUnavailable:
                newer, self._unsent_failures = self._unsent_failures, sent
                self._keep(newer)
                raise


def for_fleet(counts: Counts) -> Stats:
    """Return the part of `counts` that the fleet's counts in Redis have."""
    took_s = Timing.sum(counts.jobs.values())
    errors = sum(timing.count for (_, _, outcome), timing in counts.jobs.items() if outcome.is_error)
    turned_away = sum(count for (_, _, outcome), count in counts.refusals.items() if outcome.is_error)
    fleet = {
        "jobs": took_s.count + turned_away,
        "errors": errors + turned_away,
        "attempts": sum(timing.count for timing in counts.attempts.values()),
        "retries": sum(counts.retries.values()),
        **_named(took, took_s),
        **_named(waited, counts.waits),
    }
    workers, tenants = counts.workers, counts.tenants
    worked_ms = whole_ms(worker.seconds for worker in workers.values())
    busy_ms = whole_ms(tenant.seconds for tenant in tenants.values())
    queue_ms = whole_ms(tenant.queue_s for tenant in tenants.values())
    saved_ms = whole_ms(tenant.saved_s for tenant in tenants.values())
    return Stats(
        {name: count for name, count in fleet.items() if count},
        {
            url: WorkerStats(worker.jobs, worker.failures, ms)
            for (url, worker), ms in zip(workers.items(), worked_ms, strict=True)
        },
        {
            name or DEFAULT: TenantStats(
                *(tenant.jobs, tenant.failures, busy, queued, tenant.adopted, tenant.reused, saved)
            )
            for (name, tenant), busy, queued, saved in zip(tenants.items(), busy_ms, queue_ms, saved_ms, strict=True)
        },
    )


def _named(name: Callable[[float], str], timing: Timing) -> dict[str, int]:
    """Return a histogram's counts by the names that `name` gives to its bounds."""
    return {name(bound_s): count for bound_s, count in zip((*BOUNDS_S, math.inf), timing.counts, strict=True)}


def whole_ms(seconds: Iterable[float]) -> list[int]:
    """Return each time in whole ms, rounded so that their sum is the sum of the times.

    So however the same time is divided, among workers or among tenants, it counts as the same number of ms.

    >>> whole_ms([0.0004, 0.0004, 0.0004]), whole_ms([0.0012])
    ([0, 1, 0], [1])
    """
    ends = [round(total_s * 1000) for total_s in accumulate(seconds, initial=0.0)]
    return [end - start for start, end in pairwise(ends)]
