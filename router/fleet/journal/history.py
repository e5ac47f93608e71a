"""The history of the fleet's rates in Redis: 10 s steps of the last hour, and 1 min steps of the last day.

The leading sidecar writes it, from the counts that all routers publish. Anyone may read it.
"""

import asyncio
from collections.abc import Mapping

import msgspec

from router.fleet.journal.points import (
    DAY,
    HOUR,
    RANGES,
    SPARE,
    History,
    Mark,
    Point,
    Range,
    Series,
    laid_out,
    points_of,
)
from router.fleet.leadership import Term
from router.fleet.redis_client import RedisClient

# Without a sidecar, the history stays so long after its last point.
STAYS_S = 25 * 3600
# One call reads at most so many points, so that it does not hold up the routers' calls.
POINTS_A_CALL = 400

_encode = msgspec.json.Encoder().encode


class Marks(msgspec.Struct, frozen=True):
    """The mark of each series; None: there is none."""

    hour: Mark | None = None
    day: Mark | None = None


class FleetHistory:
    """The fleet's history. Each method may raise RedisUnavailable."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        kept: Mapping[str, float] = {"HOUR_KEPT": HOUR.kept, "DAY_KEPT": DAY.kept, "STAYS_S": STAYS_S}
        self._write = redis.register("history", **kept)

    async def read(self, span: Range) -> History:
        """Return this much of the past, up to now."""
        series, count = RANGES[span]
        texts = await self._newest(self._key(series), min(series.kept, count + SPARE))
        seconds, _ = await self._redis.transaction(("TIME",))
        # In a thread, because the points of a day with many tenants take long enough to hold up jobs.
        return await asyncio.to_thread(lambda: laid_out(points_of(texts), series.step_s, count, int(seconds)))

    async def marks(self) -> Marks:
        """Return the last leader's marks; none if they cannot be read."""
        (text,) = await self._redis.ask_all(("GET", self._redis.keys.history_mark))
        try:
            return msgspec.json.decode(text or b"{}", type=Marks)
        except msgspec.DecodeError:
            return Marks()

    async def write(self, term: Term, marks: Marks, hour: Point | None, day: Point | None) -> bool:
        """Add these points and keep the marks; return False if `term` is over: then nothing is written."""
        points = [b"" if point is None else _encode(point) for point in (hour, day)]
        return bool(await self._redis.ask(self._write(str(term), _encode(marks), *points)))

    async def _newest(self, key: str, count: int) -> list[str]:
        texts: list[str] = []
        while len(texts) < count:
            first, last = min(count, len(texts) + POINTS_A_CALL), len(texts) + 1
            (more,) = await self._redis.ask_all(("LRANGE", key, str(-first), str(-last)))
            if not more:
                break
            texts = [*more, *texts]
        return texts

    def _key(self, series: Series) -> str:
        return self._redis.keys.history_hour if series is HOUR else self._redis.keys.history_day
