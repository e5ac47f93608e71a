"""This process' view of the fleet: a snapshot, kept fresh from Redis.

Loaded at the start, at each change that the sidecar tells of, and at least every second: then only who drains or is
ejected, and whether anything has changed of the workers. What cannot be loaded leaves
the last snapshot in force; before the first one, config.yaml is the fleet. Jobs read the snapshot and never wait.
"""

import asyncio
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from router.fleet.ejection_log import tell_ejections
from router.fleet.model import Health, Member, Worker, WorkerRecord, routable
from router.fleet.records import FleetState, Records
from router.fleet.redis_client import RedisClient, RedisUnavailable

REFRESH_S = 1.0


@dataclass(frozen=True)
class Snapshot:
    """The fleet at one moment, and what follows from it. `state.written_at` None: this is config.yaml's fleet."""

    state: FleetState

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The workers as the scheduler sees them."""
        draining = self.state.draining
        return tuple(
            Member(record.worker, record.health, record.worker.url in draining) for record in self.state.records
        )

    @cached_property
    def routable(self) -> frozenset[str]:
        """The URLs of the workers that may get jobs."""
        return frozenset(worker.url for worker in routable(self.conditions))

    @cached_property
    def conditions(self) -> tuple[tuple[WorkerRecord, Health], ...]:
        """Each worker's record, and the condition that it shows."""
        return tuple((record, self._condition(record)) for record in self.state.records)

    @cached_property
    def fleet_print(self) -> str:
        """A name for who is in the fleet and how: equal in all processes that see the same."""
        return f"{zlib.crc32(repr(self.members).encode()):x}"

    def _condition(self, record: WorkerRecord) -> Health:
        if record.health is Health.UNHEALTHY:
            return record.health
        if record.worker.url in self.state.draining:
            return Health.DRAINING
        return Health.EJECTED if record.worker.url in self.state.ejected else record.health


class FleetView:
    """Holds the latest `snapshot`; `run` keeps it so. `on_change` is called when the fleet's members are other ones."""

    on_change: Callable[[], None] | None = None

    def __init__(self, redis: RedisClient, configured: Sequence[Worker]) -> None:
        records = tuple(WorkerRecord(worker) for worker in sorted(configured, key=lambda worker: worker.url))
        self.snapshot = Snapshot(FleetState(records))
        self._redis = redis
        self._records = Records(redis)
        self._changed = asyncio.Event()

    async def refresh(self) -> None:
        """Load the fleet from Redis; where that fails, or no sidecar has written yet, keep what there is."""
        with suppress(RedisUnavailable):
            state = await self._records.load(self.snapshot.state)
            # An empty Redis is new, or wiped. A sidecar will fill it; until then the last known fleet is the best one.
            if state.written_at is not None:
                before, self.snapshot = self.snapshot, Snapshot(state)
                tell_ejections(before.state.ejected, state.ejected, state.records)
                if self.on_change and self.snapshot.fleet_print != before.fleet_print:
                    self.on_change()

    async def latest(self, only: str | None = None) -> Snapshot:
        """Return the fleet with all that the last checks saw, which `snapshot` has only when somebody's health changes.

        With `only`, a URL, nobody need be in it but that worker: agents of a large fleet ask often, each after its own.
        Without Redis, the last snapshot.
        """
        if self._redis.answers:
            with suppress(RedisUnavailable):
                state = await self._records.load(only=only)
                if state.written_at is not None:
                    return Snapshot(state)
        return self.snapshot

    async def run(self) -> None:
        """Refresh on each change told and at least every second, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen())
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(REFRESH_S):
                        await self._changed.wait()
                self._changed.clear()
                await self.refresh()

    async def _listen(self) -> None:
        while True:
            with suppress(RedisUnavailable):
                async for _ in self._redis.heard(self._redis.keys.changes):
                    self._changed.set()
            # Redis is away; `refresh` says so and finds out when it is back.
            await asyncio.sleep(REFRESH_S)
