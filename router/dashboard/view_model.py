"""What the dashboard shows: a reading of the fleet goes in each second; rates, rows and changes come out.

The counts are the whole fleet's (`sfr:stats`), so rates and percentiles are differences between two readings. It keeps
five minutes of totals, and of each worker's trend. No I/O and no clock: each reading carries its time.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TypeVar

import msgspec

from router.dashboard.tenants import Tenants, TenantTable
from router.fleet.journal.rates import has_fallen, rates
from router.fleet.model import Ejection, Health, WorkerRecord, abilities, slots
from router.fleet.stats import Usage, WorkerStats, WorkerUsage
from router.policy.tenants import TenantRule

# Each process publishes its counts once a second, at a time of its own. Over one second, rates would jump.
WINDOW_S = 5.0
HISTORY_S = 300.0
# A worker's trend has one point for each of these spans: the mean time of the attempts that ended in it.
POINT_S = 10.0
POINTS = int(HISTORY_S / POINT_S)

_Item = TypeVar("_Item")


class Status(msgspec.Struct, frozen=True):
    """The state of the parts. `sidecar_s` is the age of the sidecar's records; `is_sidecar_old`: too old to rely on.

    `redis_because`: why Redis cannot be used; empty: it can.
    """

    version: str
    redis: bool
    leader: bool
    sidecar_s: float | None
    is_sidecar_old: bool
    quarantined: int
    redis_because: str = ""


class Reading(msgspec.Struct, frozen=True):
    """The fleet at the Unix time `at`, with drained and ejected workers, and the rules of its tenants.

    `usage` is None while Redis is away.
    """

    at: float
    status: Status
    conditions: Sequence[tuple[WorkerRecord, Health]]
    draining: frozenset[str]
    ejected: Mapping[str, Ejection]
    usage: Usage | None
    rules: Mapping[str, TenantRule] = {}


class Totals(msgspec.Struct, frozen=True, array_like=True):
    """The fleet's numbers at a moment. None: not known. Rates are per second.

    `slots`: how many jobs may run on all workers together; None: a worker has no cap.
    """

    at: float
    jobs: float | None = None
    running: int | None = None
    waiting: int | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None
    errors: float | None = None
    retries: float | None = None
    slots: int | None = None


class Row(msgspec.Struct, frozen=True, array_like=True):
    """A worker's values that change seldom. `place` is its index in the list of URLs.

    `since` and `ejected_until` are Unix times; `ejected_until` None: the worker is not ejected. `abilities` tells which
    jobs it can run; empty: every job. `speed` 1: it is as fast as the fleet's median, or that is not known.
    """

    place: int
    health: Health
    is_draining: bool
    since: float | None
    reason: str
    weight: int
    cap: int | None
    source: str
    ejected_until: float | None
    abilities: str
    speed: float


class Live(msgspec.Struct, frozen=True, array_like=True):
    """A worker's values that change often: leases, attempts that ended, and those of them without a result.

    None: Redis is away, and has told nothing before.
    """

    place: int
    running: int | None
    jobs: int | None
    failures: int | None


class Tick(msgspec.Struct, frozen=True):
    """All changes since the last reading. `points`: a new point (ms) of each worker's trend; None: none is due.

    `tenants` None: nothing of them has changed.
    """

    number: int
    status: Status
    totals: Totals
    rows: list[Row]
    live: list[Live]
    points: list[int | None] | None
    tenants: TenantTable | None


class Whole(msgspec.Struct, frozen=True):
    """All that the dashboard shows. `trends`: each worker's points, the oldest first."""

    number: int
    status: Status
    history: list[Totals]
    urls: list[str]
    rows: list[Row]
    live: list[Live]
    trends: list[list[int | None]]
    tenants: TenantTable


class ViewModel:
    """The fleet as it is shown. `number` counts readings; `tick` None: the last change is only in `whole`."""

    def __init__(self) -> None:
        self.number = 0
        self.tick: Tick | None = None
        self._status: Status  # the last reading's
        self._history: deque[Totals] = deque()
        self._counts: deque[tuple[float, Usage]] = deque()  # of the fleet alone
        self._urls: list[str] = []
        self._rows: list[Row] = []
        self._live: list[Live] = []
        self._trends: dict[str, deque[int | None]] = {}
        self._point_at = 0.0
        self._at_point: dict[str, WorkerStats] = {}
        self._tenants = Tenants()
        self._table = TenantTable()

    def take(self, reading: Reading) -> None:
        """Take the next reading."""
        self.number += 1
        self._status = reading.status
        of = slots(record.worker.max_concurrency for record, _ in reading.conditions)
        totals = msgspec.structs.replace(self._totals(reading), slots=of)
        self._history.append(totals)
        while self._history[0].at <= reading.at - HISTORY_S:
            self._history.popleft()
        urls = [record.worker.url for record, _ in reading.conditions]
        rows = [_row(place, *condition, reading) for place, condition in enumerate(reading.conditions)]
        usage = reading.usage
        live = self._live if usage is None and urls == self._urls else _live(urls, usage)
        points = self._points(reading.at, urls, usage)
        table = self._table if usage is None else self._tenants.table(reading.at, usage.tenants, reading.rules)
        if urls == self._urls:
            self.tick = Tick(
                *(self.number, reading.status, totals, _changed(self._rows, rows), _changed(self._live, live), points),
                tenants=None if table == self._table else table,
            )
        else:
            self.tick = None
        self._urls, self._rows, self._live, self._table = urls, rows, live, table

    def whole(self) -> Whole:
        """Return all that is shown. Call it only after a reading."""
        return Whole(
            self.number,
            self._status,
            list(self._history),
            self._urls,
            self._rows,
            self._live,
            [list(self._trends.get(url, ())) for url in self._urls],
            self._table,
        )

    def _totals(self, reading: Reading) -> Totals:
        at, usage = reading.at, reading.usage
        if usage is None:
            return Totals(at)
        counts = self._counts
        if counts and has_fallen(counts[-1][1].fleet, usage.fleet):  # Redis was emptied and counts from 0
            counts.clear()
            self._tenants.forget()
        while counts and counts[0][0] < at - 1.5 * WINDOW_S:
            counts.popleft()
        while len(counts) > 1 and counts[1][0] <= at - WINDOW_S:
            counts.popleft()
        counts.append((at, Usage(usage.waiting, usage.retries_left, usage.fleet)))
        running = sum(worker.leases for worker in usage.workers.values())
        since, before = counts[0]
        if since >= at:
            return Totals(at, running=running, waiting=usage.waiting)
        of = rates(before, usage, at - since)
        jobs, errors, retries = (round(rate, 2) for rate in (of.jobs, of.errors, of.retries))
        return Totals(at, jobs, running, usage.waiting, _ms(of.p50_s), _ms(of.p99_s), errors, retries)

    def _points(self, at: float, urls: Sequence[str], usage: Usage | None) -> list[int | None] | None:
        """Return each worker's new point of its trend; None if no point is due."""
        if usage is None or at < self._point_at + POINT_S:
            return None
        before, self._at_point = self._at_point, {url: worker.stats for url, worker in usage.workers.items()}
        is_next = at < self._point_at + 2 * POINT_S
        self._point_at = at
        if not is_next:  # there was no watcher for a while
            self._trends.clear()
            return None
        points = [_mean_ms(before.get(url), usage.workers.get(url)) for url in urls]
        self._trends = {url: self._trends.get(url) or deque(maxlen=POINTS) for url in urls}
        for url, point in zip(urls, points, strict=True):
            self._trends[url].append(point)
        return points


def _row(place: int, record: WorkerRecord, health: Health, reading: Reading) -> Row:
    worker = record.worker
    ejection = reading.ejected.get(worker.url)
    return Row(
        place,
        health,
        worker.url in reading.draining,
        _unix(record.since),
        record.last_error if record.health is Health.UNHEALTHY else ejection.reason if ejection else "",
        worker.weight,
        worker.max_concurrency,
        worker.source,
        ejection.until if ejection else None,
        abilities(worker.labels, worker.languages, worker.memory_mb),
        record.speed,
    )


def _live(urls: Sequence[str], usage: Usage | None) -> list[Live]:
    if usage is None:
        return [Live(place, None, None, None) for place in range(len(urls))]
    idle = WorkerUsage(0, 0, 0.0, WorkerStats())
    live = []
    for place, url in enumerate(urls):
        worker = usage.workers.get(url, idle)
        live.append(Live(place, worker.leases, worker.stats.jobs, worker.stats.failures))
    return live


def _changed(before: Sequence[_Item], now: Sequence[_Item]) -> list[_Item]:
    return [new for old, new in zip(before, now, strict=True) if new != old]


def _mean_ms(before: WorkerStats | None, now: WorkerUsage | None) -> int | None:
    """Return the mean time of the attempts that ended between the two readings; None if there were none."""
    if before is None or now is None or now.stats.jobs <= before.jobs:
        return None
    return max(0, round((now.stats.busy_ms - before.busy_ms) / (now.stats.jobs - before.jobs)))


def _unix(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)
