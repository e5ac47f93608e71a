"""What operators and agents want of the fleet: who registers, who is drained, weights and caps set at run time.

Intent stands in keys of its own. The sidecar reads it and writes what follows from it into the fleet; a drain the
routers read for themselves, so that it needs no sidecar. What a worker was given here leaves the fleet with it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from pydantic import ValidationError

from router.fleet.model import Worker
from router.fleet.store import Store
from router.settings import MAX_WEIGHT, WorkerSettings

# What a store with a time limit of 250 ms answers in a tenth of that.
WORKERS_A_CALL = 250


@dataclass(frozen=True, slots=True)
class Registration:
    """A worker that registered itself. `ttl_s`: for how long it is one yet; None: until it is removed."""

    url: str
    weight: int = 1
    max_concurrency: int | None = None
    ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class Override:
    """A worker's weight and cap as set at run time; None: as it came with."""

    weight: int | None = None
    max_concurrency: int | None = None

    def over(self, worker: Worker) -> Worker:
        """Return `worker` with what is set here."""
        return Worker(
            worker.url, self.weight or worker.weight, self.max_concurrency or worker.max_concurrency, worker.source
        )


@dataclass(frozen=True, slots=True)
class Intent:
    """All that is wanted, by URL. `problems` tells of what cannot be read, as after a slip with redis-cli.

    `born` names the memory that it was read from: it is another one after Redis has lost everything, and None as long
    as no sidecar has led with it.
    """

    born: str | None
    registrations: Mapping[str, Registration] = field(default_factory=dict)
    overrides: Mapping[str, Override] = field(default_factory=dict)
    draining: frozenset[str] = frozenset()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Standing:
    """What is wanted of one worker, and how many jobs run on it."""

    registration: Registration | None
    override: Override
    is_draining: bool
    running: int


class Intents:
    """Reads and writes intent. Every method raises StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    async def read(self) -> Intent:
        """Return all that is wanted."""
        keys, problems = self._keys, list[str]()
        born, registered, draining, held = await self._store.ask_all(
            ("HGET", keys.fleet, "born"),
            ("SMEMBERS", keys.registered),
            ("SMEMBERS", keys.drain),
            ("HGETALL", keys.intent),
        )
        urls = sorted(registered)
        answers = await self._store.ask_all(*(command for url in urls for command in self._ask_registration(url)))
        read = [
            _registration(url, fields, left_ms, problems)
            for url, fields, left_ms in zip(urls, answers[::2], answers[1::2], strict=True)
        ]
        registrations = {registration.url: registration for registration in read if registration}
        return Intent(born, registrations, _overrides(held, problems), frozenset(draining), tuple(problems))

    async def registered(self) -> frozenset[str]:
        """Return the URLs of those that have registered; some may have left since."""
        (urls,) = await self._store.ask_all(("SMEMBERS", self._keys.registered))
        return frozenset(urls)

    async def standing(self, urls: Sequence[str]) -> dict[str, Standing]:
        """Return how it stands with each of these workers, and with no other one."""
        found: dict[str, Standing] = {}
        for start in range(0, len(urls), WORKERS_A_CALL):
            found.update(await self._standing(urls[start : start + WORKERS_A_CALL]))
        return found

    async def _standing(self, urls: Sequence[str]) -> dict[str, Standing]:
        keys = self._keys
        draining, held, *answers = await self._store.ask_all(
            ("SMEMBERS", keys.drain),
            ("HGETALL", keys.intent),
            *(command for url in urls for command in (("ZCARD", keys.leases(url)), *self._ask_registration(url))),
        )
        overrides = _overrides(held, [])
        return {
            url: Standing(
                _registration(url, fields, left_ms, []), overrides.get(url, Override()), url in draining, count
            )
            for url, count, fields, left_ms in zip(urls, answers[::3], answers[1::3], answers[2::3], strict=True)
        }

    async def register(self, registration: Registration) -> bool:
        """Register a worker, or renew it; return whether it is new, or another one than before.

        One that was not registered begins undrained: it may have left a moment ago, before the sidecar has seen it go.
        """
        keys, url = self._keys, registration.url
        key, fields = keys.registration(url), _fields(registration)
        before, is_drained = await self._store.ask_all(("HGETALL", key), ("SISMEMBER", keys.drain, url))
        is_other = bool(before != fields)
        commands: list[tuple[str, ...]] = [
            ("SADD", keys.registered, url),
            ("HSET", key, *(text for item in fields.items() for text in item)),
            # Also where it has had none, or another one.
            ("PERSIST", key) if registration.ttl_s is None else ("PEXPIRE", key, f"{registration.ttl_s * 1000:.0f}"),
        ]
        # Renewals are many, and news to nobody.
        if is_drained and not before:
            commands.extend(self._set_drain("SREM", url))
        await self._store.together(*commands, *([self._tell_sidecar(url)] if is_other else []))
        return is_other

    async def remove(self, url: str) -> None:
        """End a registration. The sidecar takes the worker out, and all that was said of it."""
        await self._store.together(("DEL", self._keys.registration(url)), self._tell_sidecar(url))

    async def drain(self, url: str) -> None:
        """Keep new jobs from a worker, from this moment on."""
        await self._store.together(*self._set_drain("SADD", url))

    async def resume(self, url: str) -> None:
        """Let a drained worker have jobs again."""
        await self._store.together(*self._set_drain("SREM", url))

    async def override(self, url: str, fields: Mapping[str, int | None]) -> None:
        """Set a worker's `weight` or `max_concurrency`, or both; None: as it came with."""
        commands = [
            ("HDEL", self._keys.intent, f"{name} {url}")
            if value is None
            else ("HSET", self._keys.intent, f"{name} {url}", str(value))
            for name, value in fields.items()
        ]
        await self._store.together(*commands, self._tell_sidecar(url))

    async def restore(self, intent: Intent) -> None:
        """Write again what Redis has lost of `intent`; what it has been told since stays."""
        held = await self.read()
        for url, registration in intent.registrations.items():
            if url not in held.registrations:
                await self.register(registration)
        for url, override in intent.overrides.items():
            if url not in held.overrides:
                await self.override(url, {name: value for name, value in asdict(override).items() if value is not None})
        for url in intent.draining | held.draining:  # the latter, too: who registers anew begins undrained
            await self.drain(url)

    def _set_drain(self, command: str, url: str) -> tuple[tuple[str, ...], ...]:
        keys = self._keys
        # The next exchange makes the plan anew, and all routers show what they do.
        return (command, keys.drain, url), ("HSET", keys.plan_head, "stale", "1"), ("PUBLISH", keys.changes, "drain")

    def _tell_sidecar(self, url: str) -> tuple[str, ...]:
        return ("PUBLISH", self._keys.wishes, url)

    def _ask_registration(self, url: str) -> tuple[tuple[str, str], tuple[str, str]]:
        key = self._keys.registration(url)
        return ("HGETALL", key), ("PTTL", key)


def _fields(registration: Registration) -> dict[str, str]:
    cap = registration.max_concurrency
    return {"weight": str(registration.weight), "max_concurrency": "" if cap is None else str(cap)}


def _registration(url: str, fields: Mapping[str, str], left_ms: int, problems: list[str]) -> Registration | None:
    """Return the registration that the hash holds; None where there is none, or none that can be read."""
    if not fields:
        return None
    try:
        worker = WorkerSettings(
            url=url,
            weight=int(fields.get("weight") or 1),
            max_concurrency=int(fields["max_concurrency"]) if fields.get("max_concurrency") else None,
        )
    except ValueError as error:
        problems.append(f"registered worker {url}: {_cause(error)}")
        return None
    return Registration(worker.url, worker.weight, worker.max_concurrency, left_ms / 1000 if left_ms >= 0 else None)


def _overrides(held: Mapping[str, str], problems: list[str]) -> dict[str, Override]:
    """Return the overrides that the hash of `weight <url>` and `max_concurrency <url>` holds."""
    found: dict[str, Override] = {}
    for name, text in held.items():
        what, _, url = name.partition(" ")
        limit = {"weight": MAX_WEIGHT, "max_concurrency": math.inf}.get(what, 0)
        if not text.isdecimal() or not 1 <= int(text) <= limit:
            problems.append(f"intent `{name}`: expected weight or max_concurrency with a number above 0, got {text!r}")
            continue
        found[url] = replace(found.get(url, Override()), **{what: int(text)})
    return found


def _cause(error: ValueError) -> str:
    return error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
