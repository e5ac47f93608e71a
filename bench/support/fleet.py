"""Writes a fleet into Redis as the sidecar does, without workers, to measure routers and Redis alone."""

from collections.abc import Sequence
from datetime import UTC, datetime

from router.config.settings import RedisSettings
from router.fleet.leadership import Leadership
from router.fleet.model import Health, Worker, WorkerRecord
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient

# Leadership is needed for one write only.
_LEAD_S = 60.0
_TIMEOUT_S = 10.0


def urls(count: int) -> list[str]:
    """Return addresses as long as real ones."""
    return [f"http://sandbox-{number:04}.cluster.local:8080" for number in range(count)]


async def write_fleet(redis_url: str, workers: Sequence[Worker]) -> None:
    """Write `workers`, all healthy."""
    now = datetime.now(UTC)
    records = [WorkerRecord(worker, Health.HEALTHY, since=now, checked_at=now, latency_ms=1.0) for worker in workers]
    redis = RedisClient.connect(RedisSettings(url=redis_url), _TIMEOUT_S)
    term = await Leadership(redis).lead("bench", _LEAD_S)
    assert term is not None
    assert await Records(redis).record(term, now, records, (), changed=True)
    await redis.close()
