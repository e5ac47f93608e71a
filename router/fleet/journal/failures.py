"""The last failed jobs of all routers, in a stream of Redis.

An entry's id is the moment when it was written, by Redis' clock, and `ago_ms` says how long before that the job had
ended. So hosts' clocks do not count, and a failure that was kept while Redis was away has its true time. `clock_ms` is
the end by the clock of its process: it tells an entry that was written twice from two failures.
"""

from collections.abc import Iterable
from datetime import UTC, datetime

import msgspec

from router.config.bounds import MAX_COUNT, whole_number
from router.fleet.journal.failed_job import MOST, FailedJob, Failure
from router.fleet.redis_client import RedisClient, RedisUnavailable, RefusedCommand

# One call writes at most so many, so that it does not hold up the routers' calls.
ENTRIES_A_CALL = 100

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(FailedJob).decode


class Failures:
    """The fleet's last failed jobs. Routers add theirs; dashboards and commands read them."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def add(self, jobs: Iterable[tuple[float, FailedJob]], now: float) -> None:
        """Add at most ENTRIES_A_CALL jobs, each with the moment of its end, by the clock that says `now`.

        Raises RedisUnavailable.
        """
        key = self._redis.keys.failures
        answers = await self._redis.ask_each(*(_entry(key, now - ended_at, ended_at, job) for ended_at, job in jobs))
        if refused := next((each for each in answers if isinstance(each, RefusedCommand)), None):
            if refused.reason.startswith("WRONGTYPE"):  # redis-cli has made another type of it
                await self._redis.command(("DEL", key))
            raise RedisUnavailable(refused.reason)

    async def last(self) -> list[Failure]:
        """Return all that are kept, the newest first. Raises RedisUnavailable.

        A failure whose writing Redis did not confirm in time was written again; it is returned once.
        """
        (entries,) = await self._redis.ask_all(("XREVRANGE", self._redis.keys.failures, "+", "-", "COUNT", str(MOST)))
        once = {
            (fields.get("clock_ms"), failure.job): failure
            for name, fields in entries
            if (failure := _read(name, fields)) is not None
        }
        return sorted(once.values(), key=lambda failure: failure.at, reverse=True)


def _entry(key: str, ago_s: float, clock_s: float, job: FailedJob) -> tuple[str, ...]:
    """Return the command that writes one job."""
    times = "ago_ms", str(int(ago_s * 1000)), "clock_ms", str(int(clock_s * 1000))
    return ("XADD", key, "MAXLEN", "=", str(MOST), "*", *times, "job", _encode(job.clipped()).decode())


def _read(name: str, fields: dict[str, str]) -> Failure | None:
    """Read an entry of the stream; None for one that somebody else has written there."""
    written_ms = whole_number(name.partition("-")[0], 0, 2**53)
    ago_ms = whole_number(fields.get("ago_ms", ""), 0, MAX_COUNT)
    if written_ms is None or ago_ms is None:
        return None
    try:
        return Failure(datetime.fromtimestamp((written_ms - ago_ms) / 1000, UTC), _decode(fields.get("job", "")))
    except (msgspec.DecodeError, ValueError, OverflowError, OSError):
        return None
