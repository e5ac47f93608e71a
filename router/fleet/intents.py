"""Reads and writes intent, which is what operators and agents want: registrations, drains, weights and caps.

Intent stands in keys of its own. The sidecar reads it, and changes the fleet accordingly. Routers read the drains
themselves, so that draining works without a sidecar. When a worker leaves the fleet, its intent goes with it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from router.config.addresses import known_worker_url, shown
from router.config.bounds import MAX_COUNT, MAX_WEIGHT, whole_number
from router.config.tenants import TenantOverrides
from router.fleet.journal import sentences
from router.fleet.model import Source, Worker
from router.fleet.redis_client import RedisClient, RedisUnavailable, RefusedCommand
from router.fleet.tenants import Tenants, read_overrides

# One call reads so many workers: a small part of what Redis answers within a call's time limit.
WORKERS_A_CALL = 250


@dataclass(frozen=True, slots=True)
class Registration:
    """A worker that registered itself, for `ttl_s` more seconds; None: until it is removed."""

    url: str
    weight: int = 1
    max_concurrency: int | None = None
    ttl_s: float | None = None
    labels: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    memory_mb: int | None = None

    @classmethod
    def of(cls, worker: Worker, ttl_s: float | None) -> "Registration":
        """Return the registration of a worker."""
        own = worker.labels, worker.languages, worker.memory_mb
        return cls(worker.url, worker.weight, worker.max_concurrency, ttl_s, *own)

    @property
    def worker(self) -> Worker:
        """The worker as it registered itself."""
        return Worker(
            *(self.url, self.weight, self.max_concurrency, Source.REGISTERED),
            *(self.labels, self.languages, self.memory_mb),
        )


@dataclass(frozen=True, slots=True)
class Override:
    """A worker's weight and cap as set at run time; None: the worker's own."""

    weight: int | None = None
    max_concurrency: int | None = None

    def over(self, worker: Worker) -> Worker:
        """Return `worker` with this weight and cap, as far as they are set."""
        return replace(
            worker,
            weight=self.weight or worker.weight,
            max_concurrency=self.max_concurrency or worker.max_concurrency,
        )


@dataclass(frozen=True, slots=True)
class Intent:
    """All intent, by URL. `problems` describes entries that cannot be read, as after a slip with redis-cli.

    `tenants` is what is set of tenants, by name; None: it cannot be read.
    `respelt` has each other spelling of a URL under which something is held, and the form by which the worker is known.
    `born` names Redis' memory: it changes when Redis has lost everything, and is None until a sidecar has led.
    """

    born: str | None
    registrations: Mapping[str, Registration] = field(default_factory=dict)
    overrides: Mapping[str, Override] = field(default_factory=dict)
    draining: frozenset[str] = frozenset()
    tenants: Mapping[str, TenantOverrides] | None = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    respelt: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Standing:
    """The intent for one worker, and how many jobs run on it."""

    registration: Registration | None
    override: Override
    is_draining: bool
    running: int


class Intents:
    """Reads and writes intent. Every method raises RedisUnavailable."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._keys = redis.keys
        self._respell = redis.register("respell")
        self._drain = redis.register("drain")
        self._tenants = Tenants(redis)

    async def read(self) -> Intent:
        """Return all intent."""
        keys = self._keys
        answers = await self._redis.ask_each(
            ("HGET", keys.fleet, "born"),
            ("SMEMBERS", keys.registered),
            ("SMEMBERS", keys.drain),
            ("HGETALL", keys.intent),
            ("HGETALL", keys.tenants_intent),
        )
        _expect_none_refused((keys.fleet, keys.registered, keys.drain, keys.intent), answers)
        born, registered, draining, held, of_tenants = answers
        read = _Read(keys.drain, keys.intent, keys.registered)
        urls = sorted(registered)
        answers = await self._redis.ask_each(*(command for url in urls for command in self._ask_registration(url)))
        for url, fields, left_ms in zip(urls, answers[::2], answers[1::2], strict=True):
            read.registration(url, fields, left_ms)
        for url in sorted(draining):
            read.drain(url)
        for name, text in sorted(held.items()):
            read.override(name, text)
        tenants = None
        if isinstance(of_tenants, RefusedCommand):
            read.problems.append(f"{keys.tenants_intent}: {of_tenants.reason}")
        else:
            tenants, problems = read_overrides(of_tenants)
            read.problems.extend(problems)
        return Intent(
            born=born,
            registrations=read.registrations,
            overrides=read.overrides,
            draining=frozenset(read.draining),
            tenants=tenants,
            problems=tuple(read.problems),
            respelt=read.respelt,
        )

    async def respell(self, spelt: str, url: str) -> None:
        """Move what is held under another spelling of a worker's URL to `url`, the form by which it is known."""
        await self._redis.ask(self._respell(spelt, url))

    async def registered(self) -> frozenset[str]:
        """Return the URLs of the workers that have registered; some may have left since."""
        (urls,) = await self._redis.ask_all(("SMEMBERS", self._keys.registered))
        return frozenset(urls)

    async def standing(self, urls: Sequence[str]) -> dict[str, Standing]:
        """Return the intent for each of these workers, and how many jobs run on it."""
        found: dict[str, Standing] = {}
        for start in range(0, len(urls), WORKERS_A_CALL):
            found.update(await self._standing(urls[start : start + WORKERS_A_CALL]))
        return found

    async def _standing(self, urls: Sequence[str]) -> dict[str, Standing]:
        keys = self._keys
        draining, held, *answers = await self._redis.ask_each(
            ("SMEMBERS", keys.drain),
            ("HGETALL", keys.intent),
            *(command for url in urls for command in (("ZCARD", keys.leases(url)), *self._ask_registration(url))),
        )
        _expect_none_refused((keys.drain, keys.intent), (draining, held))
        read = _Read(keys.drain, keys.intent, keys.registered)
        for url in sorted(draining):
            read.drain(url)
        for name, text in sorted(held.items()):
            read.override(name, text)
        for url, fields, left_ms in zip(urls, answers[1::3], answers[2::3], strict=True):
            read.registration(url, fields, left_ms)
        return {
            url: Standing(
                read.registrations.get(url), read.overrides.get(url, Override()), url in read.draining, _count(count)
            )
            for url, count in zip(urls, answers[::3], strict=True)
        }

    async def register(self, registration: Registration) -> bool:
        """Register a worker, or renew it; return whether it is new, or anything but its time to live has changed.

        A worker that was not registered begins undrained: it may have left and come back before the sidecar saw it go.
        """
        keys, url = self._keys, registration.url
        key, fields = keys.registration(url), registration.worker.to_hash()
        before, is_drained = await self._redis.ask_all(("HGETALL", key), ("SISMEMBER", keys.drain, url))
        is_other = bool(before != fields)
        commands: list[tuple[str, ...]] = [
            ("SADD", keys.registered, url),
            ("HSET", key, *(text for item in fields.items() for text in item)),
            # Also if it had no time to live before, or another one.
            ("PERSIST", key) if registration.ttl_s is None else ("PEXPIRE", key, f"{registration.ttl_s * 1000:.0f}"),
        ]
        # There are many renewals, and they change nothing for the sidecar.
        if is_drained and not before:
            commands.extend(self._set_drain("SREM", url))
        await self._redis.transaction(*commands, *([self._tell_sidecar(url)] if is_other else []))
        return is_other

    async def remove(self, url: str) -> None:
        """End a registration. The sidecar then takes the worker out of the fleet, with its intent."""
        await self._redis.transaction(("DEL", self._keys.registration(url)), self._tell_sidecar(url))

    async def drain(self, url: str, by: str = "") -> None:
        """Keep new jobs from a worker, from this moment on. The journal says whose doing it is."""
        await self._redis.ask(self._drain(url, "SADD", json.dumps(sentences.drained(url, by).words())))

    async def resume(self, url: str, by: str = "") -> None:
        """Let a drained worker have jobs again. The journal says whose doing it is."""
        await self._redis.ask(self._drain(url, "SREM", json.dumps(sentences.resumed(url, by).words())))

    async def override(self, url: str, fields: Mapping[str, int | None]) -> None:
        """Set a worker's `weight` or `max_concurrency`, or both; None: the worker's own again."""
        commands = [
            ("HDEL", self._keys.intent, f"{name} {url}")
            if value is None
            else ("HSET", self._keys.intent, f"{name} {url}", str(value))
            for name, value in fields.items()
        ]
        await self._redis.transaction(*commands, self._tell_sidecar(url))

    async def restore(self, intent: Intent) -> None:
        """Write again what Redis has lost of `intent`. What has been written since then stays."""
        held = await self.read()
        for url, registration in intent.registrations.items():
            if url not in held.registrations:
                await self.register(registration)
        for url, override in intent.overrides.items():
            if url not in held.overrides:
                await self.override(url, {name: value for name, value in asdict(override).items() if value is not None})
        if intent.tenants and held.tenants is not None:
            await self._tenants.restore(intent.tenants, held.tenants)
        # Also those drained since then: to register a worker anew has ended its drain.
        for url in intent.draining | held.draining:
            await self._redis.transaction(*self._set_drain("SADD", url))

    def _set_drain(self, command: str, url: str) -> tuple[tuple[str, ...], ...]:
        keys = self._keys
        # The next call of the scheduler makes the plan anew, and all routers load the fleet.
        return (command, keys.drain, url), ("HSET", keys.plan_head, "stale", "1"), ("PUBLISH", keys.changes, "drain")

    def _tell_sidecar(self, url: str) -> tuple[str, ...]:
        return ("PUBLISH", self._keys.wishes, url)

    def _ask_registration(self, url: str) -> tuple[tuple[str, str], tuple[str, str]]:
        key = self._keys.registration(url)
        return ("HGETALL", key), ("PTTL", key)


class _Read:
    """Reads intent entry by entry. An entry that cannot be understood is left out, and described in `problems`."""

    def __init__(self, drain_key: str, intent_key: str, registered_key: str) -> None:
        self.registrations: dict[str, Registration] = {}
        self.overrides: dict[str, Override] = {}
        self.draining: set[str] = set()
        self.respelt: dict[str, str] = {}
        self.problems: list[str] = []
        self._drain_key, self._intent_key, self._registered_key = drain_key, intent_key, registered_key

    def registration(self, spelt: str, fields: Mapping[str, str] | RefusedCommand, left_ms: int) -> None:
        """Read the hash of a registered worker; if it is empty, the worker has left."""
        url = self._url(spelt, self._registered_key)
        if url is None or not fields:
            return
        if isinstance(fields, RefusedCommand):
            self.problems.append(f"{self._registered_key}:{url}: {fields.reason}")
            return
        try:
            worker = Worker.from_hash(url, fields, Source.REGISTERED)
        except ValueError as error:
            self.problems.append(f"registered worker {url}: {error}")
            return
        self.registrations[url] = Registration.of(worker, left_ms / 1000 if left_ms >= 0 else None)

    def drain(self, spelt: str) -> None:
        """Read a member of the set of drained workers."""
        if url := self._url(spelt, self._drain_key):
            self.draining.add(url)

    def override(self, name: str, text: str) -> None:
        """Read a field of the hash of `weight <url>` and `max_concurrency <url>`."""
        what, _, spelt = name.partition(" ")
        most = {"weight": MAX_WEIGHT, "max_concurrency": MAX_COUNT}.get(what)
        number = whole_number(text, 1, most) if most else None
        if number is None:
            wanted = f"weight or max_concurrency with a whole number from 1 to {most or MAX_COUNT}"
            self.problems.append(f"intent {shown(name)!r}: expected {wanted}, got {shown(text)!r}")
        elif url := self._url(spelt, self._intent_key):
            self.overrides[url] = replace(self.overrides.get(url, Override()), **{what: number})

    def _url(self, spelt: str, key: str) -> str | None:
        url = known_worker_url(spelt)
        if url is None:
            self.problems.append(f"{key}: expected a URL such as http://server1:8080, got {shown(spelt)!r}")
        elif url != spelt:
            self.respelt[spelt] = url
        return url


def _expect_none_refused(keys: Sequence[str], answers: Sequence[object]) -> None:
    """Raise RedisUnavailable if a key cannot be read: to take it for empty would take workers out of the fleet."""
    for key, answer in zip(keys, answers, strict=False):
        if isinstance(answer, RefusedCommand):
            raise RedisUnavailable(f"{key}: {answer.reason}")


def _count(answer: int | RefusedCommand) -> int:
    return 0 if isinstance(answer, RefusedCommand) else answer
