"""This process' view of the fleet: a snapshot that is kept fresh from Redis. Jobs read it and never wait.

It is loaded at the start, when the sidecar tells of a change, and at least every second. The regular load reads drains
and ejections, and the workers only if something has changed of them. If a load fails, the last snapshot stays in force;
before the first one, the workers of config.yaml are the fleet, and its tenants the tenants.
"""

import asyncio
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property

from router.fleet.journal.ejection_log import log_ejections
from router.fleet.model import Health, Member, Worker, WorkerRecord, routable
from router.fleet.records import FleetState, Records
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.policy.placement import serves
from router.policy.pools import Pools
from router.policy.strategy import SLOWER_THAN
from router.policy.tenants import DEFAULT, LONGEST_FIRST, TenantRule

REFRESH_S = 1.0


@dataclass(frozen=True)
class Snapshot:
    """The fleet at one moment, and what follows from it. `state.written_at` None: it is the fleet of config.yaml.

    `slower_than` is the scheduler's rule.
    """

    state: FleetState
    slower_than: float = SLOWER_THAN

    @property
    def leader(self) -> str | None:
        """The name of the sidecar that leads; "" if none ever has, None if none does any more."""
        if self.state.written_at is None:
            return ""
        return None if self.state.leader is None else self.state.leader.partition(" ")[2]

    @cached_property
    def members(self) -> tuple[Member, ...]:
        """The workers as the scheduler sees them."""
        draining = self.state.draining
        return tuple(
            Member(record.worker, record.health, record.worker.url in draining, record.speed)
            for record in self.state.records
        )

    @cached_property
    def routable(self) -> frozenset[str]:
        """The URLs of the workers that may get jobs."""
        return frozenset(worker.url for worker in routable(self.conditions))

    @cached_property
    def pools(self) -> Pools:
        """The pools of the whole fleet, whatever the workers' conditions."""
        return Pools(record.worker for record in self.state.records)

    @cached_property
    def places_jobs(self) -> bool:
        """Whether jobs that ask for no label may still need some worker and not any."""
        has_labels = any(rule.labels for rule in self.state.tenants.values())
        return has_labels or self.pools.lists_languages or self.pools.counts_memory

    @cached_property
    def placing(self) -> object:
        """All that decides where a job can run: equal in two snapshots if each job can run where it could."""
        labels = {name: rule.labels for name, rule in self.state.tenants.items()}
        return self.pools.kinds, self.pools.counts_memory, labels

    @cached_property
    def by_size(self) -> frozenset[str]:
        """The tenants whose jobs go longest first; with DEFAULT, also all tenants that have no rule."""
        return frozenset(name for name, rule in self.state.tenants.items() if rule.order == LONGEST_FIRST)

    @cached_property
    def is_default_by_size(self) -> bool:
        """Whether the jobs of tenants without a rule go longest first."""
        return DEFAULT in self.by_size

    def speed_of(self, url: str) -> float:
        """Return how fast the worker at `url` is: 1 as most are, or not known; 0.33 takes three times as long."""
        return self._speeds.get(url, 1.0)

    @cached_property
    def slow(self) -> frozenset[str]:
        """The URLs of the slow workers, by the scheduler's rule."""
        return frozenset(each.worker.url for each in self.members if each.is_slower(self.slower_than))

    @cached_property
    def _speeds(self) -> dict[str, float]:
        """The speeds of the workers that are faster or slower than most."""
        return {record.worker.url: record.speed for record in self.state.records if record.speed != 1}

    @cached_property
    def reuses_answers(self) -> bool:
        """Whether some tenant's identical jobs share runs."""
        return any(rule.reuse.seconds for rule in self.state.tenants.values())

    def routable_in(self, pool: str) -> frozenset[str]:
        """Return the URLs of this pool's workers that may get jobs."""
        if not pool:
            return self.routable
        if pool not in self._routable_in:
            fitting = [urls for kind, urls in self._routable_kinds.items() if serves(pool, *kind)]
            self._routable_in[pool] = frozenset().union(*fitting)
        return self._routable_in[pool]

    def able_in(self, pool: str, memory_mb: int) -> frozenset[str]:
        """Return the URLs of this pool's workers that may get jobs and are large enough for so much memory."""
        sizes = ((record.worker.url, record.worker.memory_mb) for record in self.state.records)
        return self.routable_in(pool) - {url for url, has_mb in sizes if has_mb is not None and has_mb < memory_mb}

    @cached_property
    def _routable_in(self) -> dict[str, frozenset[str]]:
        return {}

    @cached_property
    def _routable_kinds(self) -> dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]]:
        """The workers that may get jobs, by labels and languages. Most workers of a fleet are alike."""
        kinds: dict[tuple[tuple[str, ...], tuple[str, ...]], list[str]] = {}
        for record in self.state.records:
            if record.worker.url in self.routable:
                kinds.setdefault((record.worker.labels, record.worker.languages), []).append(record.worker.url)
        return kinds

    @cached_property
    def conditions(self) -> tuple[tuple[WorkerRecord, Health], ...]:
        """Each worker's record, and the condition that the worker is shown in."""
        return tuple((record, self._condition(record)) for record in self.state.records)

    @cached_property
    def fleet_print(self) -> str:
        """A hash of the fleet's members, and of which are slow: equal in all processes that see the same fleet."""
        # Speeds change all the time; the plan only has to know which workers get jobs last.
        members = [
            (each.worker, each.health, each.is_draining, each.is_slower(self.slower_than)) for each in self.members
        ]
        return f"{zlib.crc32(repr(members).encode()):x}"

    def _condition(self, record: WorkerRecord) -> Health:
        if record.health is Health.UNHEALTHY:
            return record.health
        if record.worker.url in self.state.draining:
            return Health.DRAINING
        return Health.EJECTED if record.worker.url in self.state.ejected else record.health


class FleetView:
    """Holds the latest `snapshot`, which `run` keeps fresh.

    `on_change` is called when the members have changed, and before it `on_placing` if some job can run elsewhere now.
    """

    on_change: Callable[[], None] | None = None
    on_placing: Callable[[], None] | None = None

    def __init__(
        self,
        redis: RedisClient,
        configured: Sequence[Worker],
        tenants: Mapping[str, TenantRule] | None = None,
        slower_than: float = SLOWER_THAN,
    ) -> None:
        records = tuple(WorkerRecord(worker) for worker in sorted(configured, key=lambda worker: worker.url))
        self.snapshot = Snapshot(FleetState(records, tenants=tenants or {}), slower_than)
        self._redis = redis
        self._records = Records(redis)
        self._changed = asyncio.Event()

    async def refresh(self) -> None:
        """Load the fleet from Redis; if that fails, or no sidecar has written it, keep the present snapshot."""
        with suppress(RedisUnavailable):
            state = await self._records.load(self.snapshot.state)
            # An empty Redis is new, or has lost everything. Until a sidecar fills it the last known fleet is the best.
            if state.written_at is not None:
                before, self.snapshot = self.snapshot, Snapshot(state, self.snapshot.slower_than)
                log_ejections(before.state.ejected, state.ejected, state.records)
                if self.on_placing and self.snapshot.placing != before.placing:
                    self.on_placing()
                if self.on_change and self.snapshot.fleet_print != before.fleet_print:
                    self.on_change()

    async def latest(self, only: str | None = None) -> Snapshot:
        """Return the fleet with the last checks' results; those in `snapshot` may be older while no health changes.

        With `only`, a URL, only that worker needs to be in it: agents of a large fleet ask often, each for its own. If
        Redis does not answer, return `snapshot`.
        """
        if self._redis.answers:
            with suppress(RedisUnavailable):
                # Without its mark the workers are read again, and of the tenants only what has changed.
                state = await self._records.load(replace(self.snapshot.state, changed_at=None), only)
                if state.written_at is not None:
                    return Snapshot(state, self.snapshot.slower_than)
        return self.snapshot

    async def run(self) -> None:
        """Refresh at each announced change, and at least every second, until cancelled."""
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
            # Redis is away. `refresh` logs that, and finds out when it is back.
            await asyncio.sleep(REFRESH_S)
