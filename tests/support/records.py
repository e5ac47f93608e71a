"""Two workers' records in Redis: one of a checked worker, one of a new worker."""

from datetime import UTC, datetime, timedelta

from router.fleet.model import Health, Worker, WorkerRecord

NOW = datetime(2026, 11, 1, 12, 30, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SEEN = WorkerRecord(
    Worker("http://a:1", 3, 8, labels=("gpu", "ib"), languages=("c++", "python"), memory_mb=64_000),
    Health.UNHEALTHY,
    NOW,
    NOW,
    12.5,
    3,
    0,
    "timed out after 5 s",
)
NEW = WorkerRecord(Worker("http://b:1"))
