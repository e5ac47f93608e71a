"""Answers the page's questions about one worker, the router processes, and the languages that workers run.

The page asks only while such a view is open, so nobody else pays for them.
"""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress

import msgspec

from router.fleet.detail.present import Lease, Present, Process
from router.fleet.model import Health, WorkerRecord, slots
from router.fleet.redis_client import RedisUnavailable
from router.fleet.snapshot import FleetView


class WorkerDetail(msgspec.Struct, frozen=True):
    """What runs on one worker at the Unix time `at`."""

    at: float
    running: list[Lease]


class ProcessDetail(msgspec.Struct, frozen=True):
    """The router processes that Redis hears of (None: Redis is away), and how many this router has itself.

    `degraded_here` of these give leases without Redis. `leader` is the sidecar that leads; None: none does.
    """

    at: float
    processes: list[Process] | None
    processes_here: int
    degraded_here: int
    leader: str | None


class Language(msgspec.Struct, frozen=True):
    """The workers that run one language; an empty `name` stands for those that run every language.

    `slots` None: a worker has no cap. `waiting` are the pending jobs of pools with this language, or of those without
    one.
    """

    name: str
    workers: int
    routable: int
    slots: int | None
    waiting: int


class LanguageDetail(msgspec.Struct, frozen=True):
    """The languages that workers list, by name; none if no worker lists any."""

    at: float
    languages: list[Language]


class Details:
    """Reads what a view asks for. `worker` and `languages` may raise RedisUnavailable.

    `processes_here` returns how many processes this router has, and how many of them give leases without Redis.
    """

    def __init__(
        self, present: Present, view: FleetView, processes_here: Callable[[], Awaitable[tuple[int, int]]]
    ) -> None:
        self._present = present
        self._view = view
        self._processes_here = processes_here

    async def worker(self, url: str) -> WorkerDetail:
        """Return what runs on the worker at `url`; nothing if there is no such worker."""
        return WorkerDetail(_now(), await self._present.leases(url))

    async def processes(self) -> ProcessDetail:
        """Return the router processes. Without Redis those of this router are still counted."""
        here, degraded = await self._processes_here()
        heard: list[Process] | None = None
        with suppress(RedisUnavailable):
            heard = await self._present.processes()
        leader = self._view.snapshot.state.leader
        return ProcessDetail(_now(), heard, here, degraded, leader)

    async def languages(self) -> LanguageDetail:
        """Return the languages that workers list."""
        return LanguageDetail(_now(), languages(self._view.snapshot.conditions, await self._present.pending()))


def languages(conditions: Sequence[tuple[WorkerRecord, Health]], pending: Mapping[str, int]) -> list[Language]:
    """Return each listed language with the workers that run it; last, as "", the workers that run every language.

    `pending` are the pending jobs of each pool.
    """
    named = sorted({name for record, _ in conditions for name in record.worker.languages})
    found = []
    for name in [*named, ""]:
        able = [
            (record, health)
            for record, health in conditions
            if not record.worker.languages or (name and name in record.worker.languages)
        ]
        waiting = sum(count for pool, count in pending.items() if pool.partition(";")[2] == name)
        found.append(
            Language(
                name,
                len(able),
                sum(health is Health.HEALTHY for _, health in able),
                slots(record.worker.max_concurrency for record, _ in able),
                waiting,
            )
        )
    return found


def _now() -> float:
    return round(time.time(), 3)
