"""The state of the fleet in Redis: what the sidecar writes of each worker, and what routers read."""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from redis.exceptions import ResponseError

from router.config.addresses import known_worker_url
from router.config.bounds import MAX_COUNT, whole_number
from router.fleet.journal.model import Event
from router.fleet.leadership import Term
from router.fleet.model import Ejection, Worker, WorkerRecord, moment
from router.fleet.redis_client import LOAD, RECORD, RedisClient, RefusedCommand, executed
from router.fleet.tenants import read_rules
from router.policy.tenants import TenantRule

log = logging.getLogger(__name__)

# One script call writes at most so many, so that the sidecar of a large fleet does not hold up the routers' calls.
RECORDS_A_CALL = 500
_NO_EVENTS: Mapping[str, Sequence[Event]] = {}


@dataclass(frozen=True, slots=True)
class FleetState:
    """All that Redis holds of the fleet. `written_at` is None if no sidecar has ever written.

    `records` are in the order of their URLs, which all processes share. `changed_at` names the sidecar's last write
    that changed the fleet or a worker's health. `leader` is the leading sidecar's term as text. `ejected` are the
    workers that the breaker has ejected, by URL; `quarantined` are hashes of jobs that break workers.

    `tenants` are the rules of tenants by name; "default" is for those not named. `tenants_at` names the moment when the
    sidecar last changed one; without it they are config.yaml's. `schema` is the version of Redis' keys, if a sidecar
    has written.
    """

    records: tuple[WorkerRecord, ...]
    written_at: datetime | None = None
    changed_at: str | None = None
    leader: str | None = None
    draining: frozenset[str] = frozenset()
    ejected: Mapping[str, Ejection] = field(default_factory=dict)
    quarantined: frozenset[str] = frozenset()
    tenants: Mapping[str, TenantRule] = field(default_factory=dict)
    tenants_at: str | None = None
    schema: int | None = None


class Records:
    """The records of one fleet's workers in Redis, and the time of the last job that ended well on each."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._keys = redis.keys
        self._record = redis.register("record")
        self._finished = redis.register("finished")

    async def load(self, known: FleetState | None = None, only: str | None = None) -> FleetState:
        """Read the whole fleet. A hash that cannot be read counts as a worker of which nothing is known.

        If nothing has changed since `known` was read, its records are taken over: to read those of a large fleet takes
        much of a process' time. So are its tenants. With `only`, a URL, no other worker is read, and no tenant. Raises
        RedisUnavailable.
        """
        return await self._redis.ask(self._load(known, only), LOAD)

    async def record(
        self,
        term: Term,
        written_at: datetime,
        records: Iterable[WorkerRecord],
        gone: Iterable[str],
        *,
        changed: bool,
        events: Mapping[str, Sequence[Event]] = _NO_EVENTS,
    ) -> bool:
        """Write `records`, and remove the workers at the URLs in `gone`; return False if `term` is over.

        With them goes what has happened to these workers: `events`, by URL. With `changed` the routers are told at
        once. Raises RedisUnavailable.
        """
        entries = [(record.worker.url, _flat(record.to_hash())) for record in records] + [(url, []) for url in gone]
        told = {url: [event.words() for event in each] for url, each in events.items()}
        moment_text = written_at.isoformat(timespec="milliseconds")
        for start in range(0, max(1, len(entries)), RECORDS_A_CALL):
            part = json.dumps([(*entry, told.get(entry[0], ())) for entry in entries[start : start + RECORDS_A_CALL]])
            is_last = start + RECORDS_A_CALL >= len(entries)
            tells = "1" if changed and is_last else ""
            if not await self._redis.ask(self._record(str(term), moment_text, tells, part), RECORD):
                return False
        return True

    async def finished_s_ago(self, worker_url: str) -> float | None:
        """Return how long ago a job last ended well on the worker; None if none has. Raises RedisUnavailable."""
        ago_ms = await self._redis.ask(self._finished(worker_url))
        return None if ago_ms < 0 else ago_ms / 1000

    async def _load(self, known: FleetState | None, only: str | None) -> FleetState:
        pipeline = self._redis.pipeline()
        pipeline.hmget(self._keys.fleet, "written_at", "changed_at", "tenants_at", "schema")
        pipeline.get(self._keys.sidecar)
        pipeline.smembers(self._keys.drain)
        pipeline.zrange(self._keys.ejected, 0, -1, withscores=True)
        pipeline.zrange(self._keys.quarantine, 0, -1)
        fleet, leader, draining, ejected, quarantined = await executed(pipeline)
        for answer in (fleet, leader, ejected, quarantined):
            if isinstance(answer, RefusedCommand):
                raise ResponseError(answer.reason)
        written_at, changed_at, tenants_at, schema = fleet
        # The mark is read before the records: if they change meanwhile, they are read again next time.
        is_known = known is not None and known.changed_at is not None and known.changed_at == changed_at
        tenants, tenants_at = await self._tenants(known, tenants_at if only is None else None)
        return FleetState(
            records=known.records if known is not None and is_known else await self._records(only),
            written_at=_moment(written_at),
            changed_at=changed_at,
            leader=leader,
            # Operators write this key by hand. If it is of another type it drains no worker, and the sidecar logs that.
            draining=frozenset() if isinstance(draining, RefusedCommand) else frozenset(draining),
            ejected=await self._ejections(dict(ejected), known.ejected if known else {}, only),
            quarantined=frozenset(quarantined),
            tenants=tenants,
            tenants_at=tenants_at,
            schema=_schema(schema) if written_at else None,
        )

    async def _tenants(
        self, known: FleetState | None, tenants_at: str | None
    ) -> tuple[Mapping[str, TenantRule], str | None]:
        """Return the tenants' rules and the moment of their last change; those `known`, unless there are newer ones.

        Without that moment no sidecar has published any. A hash that cannot be read is read again at the next load.
        """
        tenants, known_at = (known.tenants, known.tenants_at) if known else ({}, None)
        if tenants_at in (None, known_at):
            return tenants, known_at
        pipeline = self._redis.pipeline()
        pipeline.hgetall(self._keys.tenants)
        (held,) = await executed(pipeline)
        return (tenants, known_at) if isinstance(held, RefusedCommand) else (read_rules(held), tenants_at)

    async def _ejections(
        self, scores: Mapping[str, float], known: Mapping[str, Ejection], only: str | None
    ) -> dict[str, Ejection]:
        """Read why workers are ejected, except for ejections that are `known`."""
        found = {url: known[url] for url, score in scores.items() if url in known and known[url].score == score}
        new = [url for url in scores if url not in found and only in (None, url)]
        pipeline = self._redis.pipeline()
        for url in new:
            pipeline.hmget(self._keys.breaker(url), "ejected_until", "times", "failures", "cause")
        for url, held in zip(new, await pipeline.execute() if new else (), strict=True):
            found[url] = _ejection(held, scores[url])
        return found

    async def _records(self, only: str | None) -> tuple[WorkerRecord, ...]:
        pipeline = self._redis.pipeline()
        if only is None:
            pipeline.smembers(self._keys.workers)
            (held,) = await pipeline.execute()
            # redis-cli may have written anything; a member that is no worker's URL gets no job.
            urls = sorted(url for url in map(str, held) if url.isascii() and known_worker_url(url))
        else:
            pipeline.sismember(self._keys.workers, only)
            (is_held,) = await pipeline.execute()
            urls = [only] if is_held else []
        for url in urls:
            pipeline.hgetall(self._keys.worker(url))
        hashes = await executed(pipeline) if urls else []
        return tuple(_read(url, fields) for url, fields in zip(urls, hashes, strict=True))


def _ejection(held: Sequence[str | None], score: float) -> Ejection:
    """Return what a breaker's hash says; `held` is its ejected_until, times, failures and cause.

    The hash may be gone by now. If it cannot be read, as after a slip with redis-cli, it counts as absent.
    """
    try:
        until, times, failures = float(held[0] or 0), int(held[1] or 1), int(held[2] or 0)
        datetime.fromtimestamp(until, UTC)
    except (ValueError, OverflowError, OSError):
        return Ejection(0.0, score=score)
    return Ejection(until, times, failures, held[3] or "", score)


def _schema(text: str | None) -> int:
    """Return the version of the keys in Redis; releases that wrote none had the first."""
    return whole_number(text or "", 1, MAX_COUNT) or 1


def _moment(text: str | None) -> datetime | None:
    try:
        return moment(text)
    except ValueError:  # after a slip with redis-cli; the sidecar's next write corrects it
        return None


def _read(url: str, fields: dict[str, str] | RefusedCommand) -> WorkerRecord:
    try:
        return WorkerRecord.from_hash(url, {"health": fields.reason} if isinstance(fields, RefusedCommand) else fields)
    except ValueError as error:
        log.warning("Redis holds no readable state of worker %s: %s", url, error)
        return WorkerRecord(Worker(url))


def _flat(fields: dict[str, str]) -> list[str]:
    return [text for item in fields.items() for text in item]
