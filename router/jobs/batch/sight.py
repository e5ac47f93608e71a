"""The jobs of one batch that have been read and have not begun, in the order in which they begin.

The router reads on while there is room in sight, so that a long job near the end of the batch is not begun last. Where
groups stop on failure, each group's first job begins before any group's second one: when it fails, the others of its
group have not begun.
"""

import asyncio
import heapq
from collections import Counter
from typing import NamedTuple

from router.jobs.batch.window import Window
from router.jobs.body_budget import BodyBudget
from router.jobs.job import Job
from router.jobs.sooner.sizes import Sizes

# Each job in sight takes about 1 kB besides its body.
MAX_JOBS = 50_000
# So many sizes are looked up at once.
_AT_ONCE = 250
# The first job begins when the client has sent nothing for a moment, and after the second time at the latest.
_PAUSE_S, _SETTLES_WITHIN_S = 0.05, 1.0


class Seen(NamedTuple):
    """A job and its place in the batch."""

    place: int
    job: Job


class Sight:
    """The jobs in sight: bodies of `max_bytes`, and one more.

    While half of the process' `buffers` is in use, other requests need the rest: then one job is in sight. One task
    adds jobs and another one takes them. `by_group`: the groups have their turns. Then, with `sizes`, the longest goes
    first, and then the one that came first.
    """

    def __init__(
        self, max_bytes: int, in_flight: Window, buffers: BodyBudget, sizes: Sizes | None, *, by_group: bool
    ) -> None:
        self._max_bytes = max_bytes
        self._in_flight = in_flight
        self._sizes = sizes
        self._by_group = by_group
        self._turns: Counter[tuple[str, str]] = Counter()  # by group, how many of its jobs have come
        self._buffers = buffers
        self._held_bytes = 0
        self._new: list[Seen] = []
        self._ranked: list[tuple[int, int, int, Seen]] = []  # a heap: turn, -size, place
        self._is_whole = False
        self._failure: Exception | None = None
        self._has_changed, self._has_room = asyncio.Event(), asyncio.Event()

    async def has_room(self) -> None:
        """Return when another job may be read."""
        while self._is_full():
            self._has_room.clear()
            await self._has_room.wait()

    def add(self, seen: Seen) -> None:
        """Take a job into sight. Its share counts its bytes."""
        self._in_flight.ahead += 1
        self._held_bytes += seen.job.share.held_bytes
        self._new.append(seen)
        self._has_changed.set()

    def end(self, failure: Exception | None = None) -> None:
        """Say that no more jobs come, and why if these are not all; then none begins that is in sight."""
        self._is_whole, self._failure = True, failure
        self._has_changed.set()

    async def settles(self) -> None:
        """Return when as much is in sight as the client sends without a pause."""
        within_s = asyncio.get_running_loop().time() + _SETTLES_WITHIN_S
        while not self._is_whole and asyncio.get_running_loop().time() < within_s:
            self._has_changed.clear()
            try:
                async with asyncio.timeout(_PAUSE_S):
                    await self._has_changed.wait()
            except TimeoutError:
                return

    async def next(self) -> Seen | None:
        """Wait for a job, if there is none, and return the next one in sight; None if all have begun.

        Raises what `end` was given.
        """
        while True:
            if self._failure is not None:
                raise self._failure
            if self._new:
                await self._rank()
            elif self._ranked:
                return self._taken()
            elif self._is_whole:
                return None
            else:
                self._has_changed.clear()
                await self._has_changed.wait()

    def clear(self) -> None:
        """Give back the bytes of all jobs in sight, none of which will begin."""
        for seen in (*self._new, *(ranked[-1] for ranked in self._ranked)):
            seen.job.share.give_back()
        self._new, self._ranked, self._in_flight.ahead = [], [], 0

    def _is_full(self) -> bool:
        jobs = self._in_flight.ahead
        is_crowded = self._buffers.held_bytes * 2 > self._buffers.max_bytes
        return jobs > 0 and (self._held_bytes >= self._max_bytes or jobs >= MAX_JOBS or is_crowded)

    async def _rank(self) -> None:
        seen, sizes = self._new[:_AT_ONCE], self._sizes
        if sizes is not None and (unknown := [each.job for each in seen if sizes.expected_ms(each.job) is None]):
            await sizes.look_up(unknown)
        else:
            await asyncio.sleep(0)
        for each in seen:
            size_ms = 0 if sizes is None else sizes.known_ms(each.job)
            turn = self._turn_of(each.job) if self._by_group else 0
            heapq.heappush(self._ranked, (turn, -size_ms, each.place, each))
        del self._new[: len(seen)]

    def _turn_of(self, job: Job) -> int:
        """Return how many jobs of its group have come before this one."""
        group = job.options.scope, job.options.group
        turn = self._turns[group]
        if len(self._turns) > MAX_JOBS:  # an endless batch; all groups begin anew
            self._turns.clear()
        self._turns[group] = turn + 1
        return turn

    def _taken(self) -> Seen:
        seen = heapq.heappop(self._ranked)[-1]
        self._in_flight.ahead -= 1
        self._held_bytes -= seen.job.share.held_bytes
        self._has_room.set()
        return seen
