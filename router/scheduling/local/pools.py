"""Decides which workers can run a kind of job: the pools, and the rooms that they share.

Pools of the same workers share a room: a ring of its own. The room of all workers has the ring of the plan, where the
ticket is the turn; each other room counts its turns itself, so that its round robin is exact whatever other pools do.

A pool is opened by its first job. The plan, when it is made anew, keeps those for which jobs are pending. lua/pools.lua
decides alike.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from router.fleet.model import Worker
from router.policy.placement import MAX_POOLS, serves
from router.scheduling.local.ring import weighted_ring


@dataclass(frozen=True, slots=True)
class Room:
    """Workers that may get jobs, by URL, and their ring."""

    urls: tuple[str, ...] = ()
    ring: tuple[str, ...] = ()


class Pools:
    """The open pools over the workers that may get jobs."""

    def __init__(self) -> None:
        self._workers: Sequence[Worker] = ()
        self._everywhere = Room()
        self._by_pool: dict[str, Room] = {}
        self._rounds: Counter[tuple[str, ...]] = Counter()

    def set_workers(self, workers: Sequence[Worker], ring: tuple[str, ...], pools: Iterable[str]) -> None:
        """Take over the workers that may get jobs, and their ring; keep only these pools open."""
        self._workers = workers
        self._everywhere = Room(tuple(worker.url for worker in workers), ring)
        self._by_pool = {}
        for pool in pools:
            self._open(pool)
        used = {room.urls for room in self._by_pool.values()}
        self._rounds = Counter({urls: count for urls, count in self._rounds.items() if urls in used})

    def room(self, pool: str) -> Room:
        """Return the room of an open pool."""
        return self._by_pool[pool] if pool else self._everywhere

    def is_open(self, pool: str) -> bool:
        """Whether the pool is open."""
        return not pool or pool in self._by_pool

    def apart(self) -> dict[str, Room]:
        """Return the rooms of the open pools that do not have all workers, by the pools' names in order."""
        return {pool: room for pool, room in sorted(self._by_pool.items()) if room != self._everywhere}

    def are_full(self) -> bool:
        """Whether there are as many pools as there may be."""
        return len(self._by_pool) >= MAX_POOLS

    def admit(self, pool: str) -> bool:
        """Open the pool unless there are as many as there may be; return whether it is open."""
        if not self.is_open(pool) and not self.are_full():
            self._open(pool)
        return self.is_open(pool)

    def turn(self, room: Room, ticket: int) -> int:
        """Return the turn of round robin in the room: the ticket or its own count."""
        return ticket if room == self._everywhere else self._rounds[room.urls]

    def count(self, room: Room) -> None:
        """Take note that a worker of the room has got a job."""
        if room != self._everywhere:
            self._rounds[room.urls] += 1

    def _open(self, pool: str) -> None:
        chosen = [worker for worker in self._workers if serves(pool, worker.labels, worker.languages)]
        if len(chosen) == len(self._workers):
            self._by_pool[pool] = self._everywhere
        else:
            self._by_pool[pool] = Room(tuple(worker.url for worker in chosen), weighted_ring(chosen))
