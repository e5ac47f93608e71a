"""Workers as values: what is configured, what checks have seen, and what Redis holds. Nothing here acts.

How a record becomes a Redis hash and how it is read again stand side by side, so that neither forgets a field.
"""

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from router.config.bounds import MAX_COUNT, MAX_MEMORY_MB, MAX_SPEED, MAX_WEIGHT, whole_number
from router.policy.placement import LABEL, LANGUAGE, names_in


class Health(StrEnum):
    """A worker's condition. The sidecar finds and stores the first three; UNKNOWN: it has not been checked.

    A healthy worker is shown as EJECTED or DRAINING while the breaker or an operator keeps new jobs from it.
    """

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    EJECTED = "ejected"
    DRAINING = "draining"


class Source(StrEnum):
    """Where a worker comes from: config.yaml, the workers_file, a DNS name, or a registration at run time."""

    CONFIG = "config"
    REGISTERED = "registered"
    FILE = "file"
    DNS = "dns"


@dataclass(frozen=True, slots=True)
class Worker:
    """One worker as it was configured. `source` is a Source, or any other text that stands in Redis.

    `labels` and `languages` are sorted. A worker without `languages` takes every language. `memory_mb` None: the memory
    of its jobs is not counted.
    """

    url: str
    weight: int = 1
    max_concurrency: int | None = None
    source: str = Source.CONFIG
    labels: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    memory_mb: int | None = None

    def to_hash(self) -> dict[str, str]:
        """Return how it was configured, as fields of a Redis hash; what is not set is empty."""
        return {
            "weight": str(self.weight),
            "max_concurrency": "" if self.max_concurrency is None else str(self.max_concurrency),
            "labels": ",".join(self.labels),
            "languages": ",".join(self.languages),
            "memory_mb": "" if self.memory_mb is None else str(self.memory_mb),
        }

    @classmethod
    def from_hash(cls, url: str, fields: Mapping[str, str], source: str) -> "Worker":
        """Read what `to_hash` wrote; a field that is absent has its default. Raises ValueError."""
        return cls(
            url=url,
            weight=number_in(fields, "weight", 1, MAX_WEIGHT) or 1,
            max_concurrency=number_in(fields, "max_concurrency", 1, MAX_COUNT),
            source=source,
            labels=listed_in(fields, "labels", LABEL),
            languages=listed_in(fields, "languages", LANGUAGE),
            memory_mb=number_in(fields, "memory_mb", 1, MAX_MEMORY_MB),
        )


@dataclass(frozen=True, slots=True)
class Observation:
    """One health check's outcome; `error` is None if the worker was well.

    `is_outvoted`: other evidence contradicts it, so that it counts neither for the worker nor against it.
    """

    checked_at: datetime
    latency_ms: float
    error: str | None = None
    is_outvoted: bool = False


@dataclass(frozen=True, slots=True)
class Ejection:
    """The breaker keeps jobs from a worker `until` (Unix time) one is let through as its trial.

    It has been ejected `times` since it last did well, for the first time after so many `failures` in a row. `cause` is
    that of the attempt which ejected it last. `score` is the worker's score in the key `ejected`; it changes whenever
    one of the others does.
    """

    until: float
    times: int = 1
    failures: int = 0
    cause: str = ""
    score: float = 0.0

    @property
    def reason(self) -> str:
        """Why it was ejected, as prose.

        >>> Ejection(0, failures=5, cause="returned 503").reason, Ejection(0, times=2, cause="timed out").reason
        ('5 failed jobs in a row, the last: returned 503', 'its trial job failed: timed out')
        """
        if not self.cause:
            return "the cause is not known"
        row = "1 failed job" if self.failures == 1 else f"{self.failures} failed jobs in a row, the last"
        what = row if self.times == 1 else "its trial job failed"
        return f"{what}: {self.cause}"


@dataclass(slots=True)
class Ratios:
    """Of some attempts on one worker: ln(time / size) of each in sum, the sum of their squares, and their number."""

    total: float = 0.0
    squares: float = 0.0
    count: float = 0.0

    def add(self, more: "Ratios") -> None:
        """Add `more` to these."""
        self.total += more.total
        self.squares += more.squares
        self.count += more.count


@dataclass(frozen=True, slots=True)
class WorkerRecord:
    """A worker and its condition: the Redis hash `sfr:worker:<url>`.

    `failures` and `successes` count checks in a row; at least one of them is 0. `since` is when `health` last changed.
    `speed` is 1 for a worker that is as fast as the fleet's median, or of which too little is known; one of 0.33 takes
    three times as long.
    """

    worker: Worker
    health: Health = Health.UNKNOWN
    since: datetime | None = None
    checked_at: datetime | None = None
    latency_ms: float | None = None
    failures: int = 0
    successes: int = 0
    last_error: str = ""
    speed: float = 1.0

    def to_hash(self) -> dict[str, str]:
        """Return the fields of the Redis hash as text; a field that is not known is empty."""
        return {
            "health": self.health.value,
            "since": _iso(self.since),
            "checked_at": _iso(self.checked_at),
            "latency_ms": "" if self.latency_ms is None else f"{self.latency_ms:.1f}",
            "failures": str(self.failures),
            "successes": str(self.successes),
            "last_error": self.last_error,
            **self.worker.to_hash(),
            "source": self.worker.source,
            "speed": f"{self.speed:g}",
        }

    @classmethod
    def from_hash(cls, url: str, fields: Mapping[str, str]) -> "WorkerRecord":
        """Read what `to_hash` wrote; a field that is absent has its default.

        Raises ValueError if a field cannot be read, as after a slip with redis-cli.
        """
        return cls(
            worker=Worker.from_hash(url, fields, fields.get("source", "")),
            health=Health(fields.get("health") or Health.UNKNOWN),
            since=moment(fields.get("since")),
            checked_at=moment(fields.get("checked_at")),
            latency_ms=_latency_ms(fields.get("latency_ms")),
            failures=number_in(fields, "failures", 0, MAX_COUNT) or 0,
            successes=number_in(fields, "successes", 0, MAX_COUNT) or 0,
            last_error=fields.get("last_error", ""),
            speed=_speed(fields.get("speed")),
        )


def abilities(labels: Collection[str], languages: Collection[str], memory_mb: int | None) -> str:
    """Return which jobs a worker can run, for people; empty if it takes every job.

    >>> abilities(["gpu", "ib"], ["python"], 64000), abilities([], [], None)
    ('gpu, ib; python only; 64000 MB', '')
    """
    if not (labels or languages or memory_mb):
        return ""
    parts = [", ".join(labels)] if labels else []
    parts += [f"{', '.join(languages)} only"] if languages else []
    return "; ".join([*parts, *([] if memory_mb is None else [f"{memory_mb} MB"])])


def slots(caps: Iterable[int | None]) -> int | None:
    """Return how many jobs may run at once on workers with these caps; None if one has no cap, or there is no worker.

    To compare with running jobs, pass all workers: jobs run on unhealthy and ejected workers, too, until they end.

    >>> slots([3, 4]), slots([3, None]), slots([])
    (7, None, None)
    """
    known = list(caps)
    return None if not known or None in known else sum(cap or 0 for cap in known)


def _iso(moment: datetime | None) -> str:
    return "" if moment is None else moment.isoformat(timespec="milliseconds")


def moment(text: str | None) -> datetime | None:
    """Read a moment in ISO 8601; without a zone it is in UTC. Raises ValueError."""
    if not text:
        return None
    found = datetime.fromisoformat(text)
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def number_in(fields: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """Return the number that a field holds; None if it is absent or empty. Raises ValueError."""
    text = fields.get(name)
    if not text:
        return None
    if (number := whole_number(text, least, most)) is None:
        raise ValueError(f"{name}: expected a whole number from {least} to {most}")
    return number


def listed_in(fields: Mapping[str, str], name: str, pattern: re.Pattern[str]) -> tuple[str, ...]:
    """Return the names in a field's list with commas; none if it is absent or empty. Raises ValueError."""
    try:
        return names_in(fields.get(name, ""), pattern)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _latency_ms(text: str | None) -> float | None:
    if not text:
        return None
    if not 0 <= (latency_ms := float(text)) < math.inf:
        raise ValueError("latency_ms: expected a number from 0 on")
    return latency_ms


def _speed(text: str | None) -> float:
    if not text:
        return 1.0
    if not 1 / MAX_SPEED <= (speed := float(text)) <= MAX_SPEED:
        raise ValueError(f"speed: expected a number from {1 / MAX_SPEED:g} to {MAX_SPEED}")
    return speed


@dataclass(frozen=True, slots=True)
class Member:
    """A worker of the fleet as the scheduler sees it; `speed` is that of its record."""

    worker: Worker
    health: Health = Health.HEALTHY
    is_draining: bool = False
    speed: float = 1.0

    @property
    def cap(self) -> int:
        """How many jobs it may run at once; 0: any number."""
        return self.worker.max_concurrency or 0

    def is_slower(self, slower_than: float) -> bool:
        """Whether it takes more than so many times as long as most do.

        >>> Member(Worker("a"), speed=0.5).is_slower(1.5), Member(Worker("a")).is_slower(1.5)
        (True, False)
        """
        return self.speed * slower_than < 1


def routable(workers: Iterable[tuple[WorkerRecord, Health]]) -> list[Worker]:
    """Return the workers that may get jobs: those shown as healthy or, if there are none, those not checked.

    So without a sidecar or Redis, when no worker has been checked, all workers of config.yaml get jobs.
    """
    by_condition: dict[Health, list[Worker]] = {}
    for record, condition in workers:
        by_condition.setdefault(condition, []).append(record.worker)
    return by_condition.get(Health.HEALTHY) or by_condition.get(Health.UNKNOWN) or []
