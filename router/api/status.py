"""Fills the API's models with the state of the fleet."""

from datetime import UTC, datetime

from router.api.schemas import AVAILABLE, HealthStatus, SidecarStatus, WorkerStatus
from router.fleet.model import Ejection, Health, WorkerRecord
from router.fleet.redis_client import RedisClient
from router.fleet.snapshot import Snapshot


def health_status(snapshot: Snapshot, redis: RedisClient) -> HealthStatus:
    """Return the state of the whole fleet, as `GET /health` shows it."""
    return HealthStatus(
        status="healthy" if snapshot.routable else "unhealthy",
        total_workers=len(snapshot.conditions),
        healthy_workers=sum(condition is Health.HEALTHY for _, condition in snapshot.conditions),
        quarantined_jobs=len(snapshot.state.quarantined),
        redis=redis_state(redis),
        redis_because=redis.trouble,
        sidecar=sidecar_status(snapshot),
    )


def worker_status(record: WorkerRecord, condition: Health, ejection: Ejection | None) -> WorkerStatus:
    """Return the state of one worker, as `GET /` shows it."""
    return WorkerStatus(
        url=record.worker.url,
        healthy=condition is Health.HEALTHY,
        health=condition,
        since=record.since,
        checked_at=record.checked_at,
        latency_ms=record.latency_ms,
        failures=record.failures,
        last_error=record.last_error,
        weight=record.worker.weight,
        max_concurrency=record.worker.max_concurrency,
        source=record.worker.source,
        labels=list(record.worker.labels),
        languages=list(record.worker.languages),
        memory_mb=record.worker.memory_mb,
        speed=record.speed,
        ejected_until=datetime.fromtimestamp(ejection.until, UTC) if ejection else None,
        ejected_because=ejection.reason if ejection else "",
    )


def redis_state(redis: RedisClient) -> str:
    """Return the word that says whether Redis can be used."""
    return AVAILABLE if redis.available else "unavailable"


def sidecar_status(snapshot: Snapshot) -> SidecarStatus:
    """Return which sidecar leads, and how old its last records are."""
    state = snapshot.state
    if state.written_at is None:
        return SidecarStatus(leader=state.leader, age_seconds=None)
    # The clocks of two hosts may differ a little, but an age must not be negative.
    age_s = max(0.0, (datetime.now(UTC) - state.written_at).total_seconds())
    return SidecarStatus(leader=state.leader, age_seconds=round(age_s, 1), schema_version=state.schema)
