"""Writes the history of the fleet's rates while this sidecar leads: it reads all routers' counts every ten seconds.

A new leader goes on from the last one's marks, so a step in which the lead changes is known, too.
"""

import asyncio
from collections.abc import Callable, Collection
from contextlib import suppress
from typing import Never

from router.fleet.counters import Counters
from router.fleet.journal.history import FleetHistory, Marks
from router.fleet.journal.points import DAY, HOUR, advanced
from router.fleet.leadership import Term
from router.fleet.redis_client import RedisUnavailable
from sidecar.rounds import forever

# A reading comes so long after the step's end, because routers count in Redis once a second. It is also the pause after
# a call that Redis did not answer.
AFTER_S = 0.5


class Historian:
    """Reads what all routers have counted, and writes what that says of each step."""

    def __init__(self, counters: Counters, history: FleetHistory) -> None:
        self._counters = counters
        self._history = history
        self._marks: Marks | None = None

    async def run(self, term: Term, workers: Callable[[], Collection[str]]) -> Never:
        """Write until cancelled; `workers` returns the URLs of the fleet. Once `term` is over, nothing is written."""
        self._marks = None
        await forever(lambda: self._round(term, workers), AFTER_S)

    async def _round(self, term: Term, workers: Callable[[], Collection[str]]) -> None:
        """Read the counts once, and return when the present step has ended."""
        with suppress(RedisUnavailable):
            marks = await self._history.marks() if self._marks is None else self._marks
            usage = await self._counters.usage(sorted(workers()))
            (hour_mark, hour), (day_mark, day) = (
                advanced(mark, usage, series.step_s) for mark, series in ((marks.hour, HOUR), (marks.day, DAY))
            )
            marks = Marks(hour_mark, day_mark)
            if await self._history.write(term, marks, hour, day):
                self._marks = marks
            await asyncio.sleep(HOUR.step_s - usage.at_ms / 1000 % HOUR.step_s)
