"""The one door to Redis: every command that this project sends passes here.

Each call is bounded in time and ends in a value or in StoreUnavailable; whoever calls decides what to do without Redis.
"""

import json
import logging
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any, Self, TypeVar

import msgspec
from redis.exceptions import RedisError, ResponseError

from router.addresses import known_worker_url
from router.fleet.connection import AnyRedis, connect
from router.fleet.exchange import Grant
from router.fleet.keys import Keys
from router.fleet.model import Ejection, Worker, WorkerRecord, moment
from router.fleet.script import Script, script, within
from router.fleet.stats import WORKER_TTL_S, WORKERS_A_CALL, Stats, Usage
from router.settings import RedisSettings

log = logging.getLogger(__name__)

# What one script call writes at most: about 3 ms of Redis' time, so that a fleet of thousands delays no ticket.
RECORDS_A_CALL = 500
# How long one wait for a grant lasts before it is renewed.
GRANTS_WAIT_S = 5
GRANTS_A_WAIT = 1000

_Value = TypeVar("_Value")


# What routers and sidecars ask steadily: while Redis refuses one of these it is of no use, whatever else it takes.
LOAD, EXCHANGE, LEAD, RECORD = "load", "exchange", "lead", "record"


class StoreUnavailable(Exception):
    """Redis did not answer, not in time, or not as it should."""


@dataclass(frozen=True, slots=True)
class Refused:
    """What Redis gave in place of one command's answer, such as for a key of another type."""

    reason: str


@dataclass(frozen=True, slots=True)
class FleetState:
    """All that Redis holds of the fleet. `written_at` is None where no sidecar has written yet.

    `records` are in the order of their URLs, which all processes share; `changed_at` names the sidecar's last write
    that changed who they are or how well. `ejected` are those that the breaker keeps out, by URL; `quarantined` are
    hashes of jobs that break workers.
    """

    records: tuple[WorkerRecord, ...]
    written_at: datetime | None = None
    changed_at: str | None = None
    leader: str | None = None
    draining: frozenset[str] = frozenset()
    ejected: Mapping[str, Ejection] = field(default_factory=dict)
    quarantined: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Term:
    """A sidecar's time of leading: what it shows with each write, so that an outdated leader writes nothing."""

    token: int
    name: str

    def __str__(self) -> str:
        return f"{self.token} {self.name}"


class Store:
    """Redis under one prefix. The only state here is how calls ended: `available` and `answers`.

    A replica, or a Redis without memory, answers each reading and refuses each writing. So a steady call that fails
    makes Redis unavailable until the same call succeeds; another call's trouble is over with any call that succeeds.
    """

    def __init__(self, client: AnyRedis, prefix: str, timeout_s: float) -> None:
        self.keys = Keys(prefix)
        self.answers = True  # the last call was answered, if only with a refusal
        self._trouble: dict[str, str] = {}  # why, by the steady call that failed, "" of all others
        self._client = client
        self._timeout_s = timeout_s
        self._lead = client.register_script(_script("lead.lua"))
        self._count = client.register_script(_script("count.lua"))
        self._finished = client.register_script(_script("finished.lua"))
        self._record = client.register_script(_script("record.lua"))
        self._respell = client.register_script(_script("respell.lua"))
        self._resign = client.register_script(_script("resign.lua"))
        self._together = client.register_script(_script("together.lua"))
        self._usage = client.register_script(_script("usage.lua"))

    @classmethod
    def connect(cls, settings: RedisSettings, timeout_s: float) -> Self:
        """Return a store that connects at its first call and gives each call `timeout_s` seconds."""
        return cls(connect(settings, timeout_s), settings.prefix, timeout_s)

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def load(self, known: FleetState | None = None, only: str | None = None) -> FleetState:
        """Read the whole fleet. A hash that cannot be read counts as a worker of which nothing is known.

        Where nothing has changed since `known` was read, its records are taken over: 1,000 workers take 18 ms of CPU.
        With `only`, a URL, no other worker is read. Raises StoreUnavailable.
        """
        return await self._ask(self._load(known, only), LOAD)

    @property
    def available(self) -> bool:
        """Whether all goes well that is asked of Redis steadily."""
        return not self._trouble

    def script(self, name: str, key: str, constants: tuple[str | bytes | float, ...]) -> Script:
        """Return a script that is asked by calls; whoever asks tells `succeeded` or `failed` how that went."""
        return script(self._client, _script(name), self._timeout_s, key, constants)

    def succeeded(self, steady: str = "") -> None:
        """Take note of a call that was answered; `steady` names it where it is one of those."""
        self.answers = True
        if self._trouble:
            self._trouble.pop("", None)
            self._trouble.pop(steady, None)
            if not self._trouble:
                log.info("Redis available again")

    def failed(self, error: Exception, steady: str = "") -> StoreUnavailable:
        """Take note of a call that was not, and return how that is told."""
        cause = f"no answer within {self._timeout_s} s" if isinstance(error, TimeoutError) else str(error)
        self.answers = isinstance(error, ResponseError)
        if steady or not self.answers:  # a single call that is refused says nothing of the others
            if not self._trouble:
                log.warning("Redis unavailable: %s", cause)
            self._trouble[steady] = cause
        return StoreUnavailable(cause)

    async def grants(self, process: str) -> AsyncIterator[list[Grant]]:
        """Yield the leases that other processes' calls give to jobs of `process`. Raises StoreUnavailable."""
        try:
            while True:
                # A wait without end would not notice a connection that is dead without a word.
                keys = [self.keys.grants(process)]
                given = await self._client.blmpop(
                    GRANTS_WAIT_S, len(keys), *keys, direction="LEFT", count=GRANTS_A_WAIT
                )
                if given:
                    yield [_decode_grant(str(text)) for text in given[1]]
        except (RedisError, OSError) as error:
            raise StoreUnavailable(str(error)) from error

    async def heard(self, channel: str) -> AsyncIterator[None]:
        """Yield once when subscribed to the channel, then at each message there. Raises StoreUnavailable."""
        try:
            await self._client.initialize()  # a Cluster's subscription does not ask for itself where its slots are
            async with self._client.pubsub() as pubsub:
                await pubsub.subscribe(channel)
                async for _ in pubsub.listen():
                    yield
        except (RedisError, OSError) as error:
            raise StoreUnavailable(str(error)) from error

    async def lead(self, name: str, ttl_s: float) -> Term | None:
        """Take or renew the lead among the sidecars; None where another one has it. Raises StoreUnavailable."""
        keys = [self.keys.sidecar, self.keys.fleet]
        token = await self._ask(self._lead(keys=keys, args=[name, int(ttl_s * 1000)]), LEAD)
        return Term(token, name) if token else None

    async def resign(self, term: Term) -> None:
        """Give up the lead, so that another sidecar has it at once. Raises StoreUnavailable."""
        await self._ask(self._resign(keys=[self.keys.sidecar], args=[str(term)]))

    async def record(
        self, term: Term, written_at: datetime, records: Iterable[WorkerRecord], gone: Iterable[str], *, changed: bool
    ) -> bool:
        """Write `records` and forget the URLs in `gone`; `changed` tells the routers at once. False: not leading.

        Raises StoreUnavailable.
        """
        entries = [(record.worker.url, _flat(record.to_hash())) for record in records]
        entries += [(url, "[]") for url in gone]
        for start in range(0, max(1, len(entries)), RECORDS_A_CALL):
            part = entries[start : start + RECORDS_A_CALL]
            is_last = start + RECORDS_A_CALL >= len(entries)
            channel = self.keys.changes if changed and is_last else ""
            keys = [
                self.keys.sidecar,
                self.keys.fleet,
                self.keys.workers,
                self.keys.plan_head,
                self.keys.drain,
                self.keys.intent,
                self.keys.registered,
                *(self.keys.worker(url) for url, _ in part),
            ]
            args = [str(term), written_at.isoformat(timespec="milliseconds"), channel]
            args += [text for entry in part for text in entry]
            if not await self._ask(self._record(keys=keys, args=args), RECORD):
                return False
        return True

    async def respell(self, spelt: str, url: str) -> None:
        """Hold under `url` what is wanted of its worker under another spelling. Raises StoreUnavailable."""
        keys = [self.keys.drain, self.keys.intent, self.keys.registered, self.keys.plan_head]
        await self._ask(self._respell(keys=keys, args=[spelt, url, self.keys.changes]))

    async def finished_s_ago(self, worker_url: str) -> float | None:
        """Return how long ago a job last ended well on the worker, None where none has. Raises StoreUnavailable."""
        ago_ms = await self._ask(self._finished(keys=[self.keys.finished], args=[worker_url]))
        return None if ago_ms < 0 else ago_ms / 1000

    async def count(self, stats: Stats) -> None:
        """Add `stats` to what all processes have counted; at most WORKERS_A_CALL workers. Raises StoreUnavailable."""
        await self._ask(self._count(keys=[self.keys.stats], args=[self.keys.prefix, _encode(stats), WORKER_TTL_S]))

    async def usage(self, urls: Sequence[str]) -> Usage:
        """Return how the fleet and the workers at `urls` are used now. Raises StoreUnavailable."""
        read: list[Usage] = []
        for start in range(0, max(1, len(urls)), WORKERS_A_CALL):
            part = _encode(urls[start : start + WORKERS_A_CALL])
            answer = await self._ask(self._usage(keys=[self.keys.stats], args=[self.keys.prefix, part]))
            read.append(_decode_usage(answer))
        workers = {url: worker for usage in read for url, worker in usage.workers.items()}
        return msgspec.structs.replace(read[-1], workers={url: workers[url] for url in urls})

    async def command(self, words: Sequence[str]) -> Any:
        """Send one command as an operator typed it. Raises StoreUnavailable, also where Redis refuses it."""
        return await self._ask(self._client.execute_command(*words))

    async def ask_all(self, *commands: Sequence[str]) -> list[Any]:
        """Send the commands in one round trip and return their answers. Raises StoreUnavailable."""
        pipeline = self._client.pipeline(transaction=False)
        for words in commands:
            pipeline.execute_command(*words)
        return await self._ask(pipeline.execute())

    async def ask_each(self, *commands: Sequence[str]) -> list[Any]:
        """Send the commands in one round trip; of one that Redis refuses, Refused is the answer.

        Raises StoreUnavailable.
        """
        pipeline = self._client.pipeline(transaction=False)
        for words in commands:
            pipeline.execute_command(*words)
        return await self._ask(_executed(pipeline))

    async def together(self, *commands: Sequence[str]) -> Any:
        """Send the commands in one atomic step and return the last one's answer. Raises StoreUnavailable."""
        return await self._ask(self._together(keys=[self.keys.fleet], args=[json.dumps(commands)]))

    async def _load(self, known: FleetState | None, only: str | None) -> FleetState:
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hmget(self.keys.fleet, "written_at", "changed_at")
        pipeline.get(self.keys.sidecar)
        pipeline.smembers(self.keys.drain)
        pipeline.zrange(self.keys.ejected, 0, -1, withscores=True)
        pipeline.zrange(self.keys.quarantine, 0, -1)
        (written_at, changed_at), leader, draining, *others = await _executed(pipeline)
        if refused := next((each for each in others if isinstance(each, Refused)), None):
            raise ResponseError(refused.reason)
        ejected, quarantined = others
        # Changed while this reads, it is read again next time: the mark has been read before.
        is_known = known is not None and known.changed_at is not None and known.changed_at == changed_at
        return FleetState(
            records=known.records if known is not None and is_known else await self._records(only),
            written_at=_moment(written_at),
            changed_at=changed_at,
            leader=leader,
            # Operators write it by hand. Of another type, it drains nobody; the sidecar says so.
            draining=frozenset() if isinstance(draining, Refused) else frozenset(draining),
            ejected=await self._ejections(dict(ejected), known.ejected if known else {}, only),
            quarantined=frozenset(quarantined),
        )

    async def _ejections(
        self, scores: Mapping[str, float], known: Mapping[str, Ejection], only: str | None
    ) -> dict[str, Ejection]:
        """Read why workers are ejected, but for those of which that is `known`."""
        found = {url: known[url] for url, score in scores.items() if url in known and known[url].score == score}
        new = [url for url in scores if url not in found and only in (None, url)]
        pipeline = self._client.pipeline(transaction=False)
        for url in new:
            pipeline.hmget(self.keys.breaker(url), "ejected_until", "times", "failures", "cause")
        for url, held in zip(new, await pipeline.execute() if new else (), strict=True):
            found[url] = _ejection(held, scores[url])
        return found

    async def _records(self, only: str | None) -> tuple[WorkerRecord, ...]:
        if only is None:
            # By redis-cli anything may have come in. What is no worker's URL gets no job, and breaks no answer's head.
            held = map(str, await self._client.smembers(self.keys.workers))
            urls = sorted(url for url in held if url.isascii() and known_worker_url(url))
        else:
            urls = [only] if await self._client.sismember(self.keys.workers, only) else []
        pipeline = self._client.pipeline(transaction=False)
        for url in urls:
            pipeline.hgetall(self.keys.worker(url))
        hashes = await _executed(pipeline) if urls else []
        return tuple(_read(url, fields) for url, fields in zip(urls, hashes, strict=True))

    async def _ask(self, call: Awaitable[_Value], steady: str = "") -> _Value:
        try:
            value = await within(self._timeout_s, call)
        except (RedisError, OSError) as error:  # TimeoutError is an OSError
            raise self.failed(error, steady) from error
        self.succeeded(steady)
        return value


_encode = msgspec.json.Encoder().encode
_decode_usage = msgspec.json.Decoder(Usage).decode
_decode_grant = msgspec.json.Decoder(Grant).decode


def _script(name: str) -> str:
    return files("router.fleet").joinpath(name).read_text(encoding="utf-8")


def _flat(fields: dict[str, str]) -> str:
    return json.dumps([text for item in fields.items() for text in item])


def _ejection(held: Sequence[str | None], score: float) -> Ejection:
    """Return what a breaker's hash says: ejected_until, times, failures, cause.

    It may be gone by now; what cannot be read, as after a slip with redis-cli, counts as absent.
    """
    try:
        until, times, failures = float(held[0] or 0), int(held[1] or 1), int(held[2] or 0)
        datetime.fromtimestamp(until, UTC)
    except (ValueError, OverflowError, OSError):
        return Ejection(0.0, score=score)
    return Ejection(until, times, failures, held[3] or "", score)


def _moment(text: str | None) -> datetime | None:
    try:
        return moment(text)
    except ValueError:  # after a slip with redis-cli; the sidecar's next write is as good as the first
        return None


async def _executed(pipeline: Any) -> list[Any]:
    """Return the answers to the pipeline's commands, Refused in place of one that Redis refuses. Raises RedisError."""
    answers: list[Any] = await pipeline.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, Exception) and not isinstance(answer, ResponseError):
            raise answer
    return [Refused(str(answer)) if isinstance(answer, ResponseError) else answer for answer in answers]


def _read(url: str, fields: dict[str, str] | Refused) -> WorkerRecord:
    try:
        return WorkerRecord.from_hash(url, {"health": fields.reason} if isinstance(fields, Refused) else fields)
    except ValueError as error:
        log.warning("Redis holds no readable state of worker %s: %s", url, error)
        return WorkerRecord(Worker(url))
