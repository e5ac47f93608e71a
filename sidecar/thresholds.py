"""What one health check does to what is known of a worker: rise and fall. Pure; `seen` carries the time."""

from dataclasses import replace

from router.fleet.model import Health, Observation, WorkerRecord


def judge(record: WorkerRecord, seen: Observation, rise: int, fall: int) -> WorkerRecord:
    """Return `record` after `seen`.

    A worker of which nothing is known is what its first check says; later, `rise` good checks in a row make it
    healthy, `fall` bad ones unhealthy, so that one late answer takes nobody out. An outvoted check changes no health
    and begins both rows anew.
    """
    is_well = seen.error is None and not seen.is_outvoted
    is_ill = seen.error is not None and not seen.is_outvoted
    successes = record.successes + 1 if is_well else 0
    failures = record.failures + 1 if is_ill else 0
    health = record.health
    if is_well and (successes >= rise or health is Health.UNKNOWN):
        health = Health.HEALTHY
    elif is_ill and (failures >= fall or health is Health.UNKNOWN):
        health = Health.UNHEALTHY
    return replace(
        record,
        health=health,
        since=record.since if health is record.health else seen.checked_at,
        checked_at=seen.checked_at,
        latency_ms=seen.latency_ms,
        failures=failures,
        successes=successes,
        last_error=record.last_error if seen.error is None else seen.error,
    )
