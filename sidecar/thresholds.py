"""Decides how one check changes a worker's health, by the thresholds rise and fall. It reads no clock."""

from dataclasses import replace

from router.fleet.model import Health, Observation, WorkerRecord


def judge(record: WorkerRecord, seen: Observation, rise: int, fall: int) -> WorkerRecord:
    """Return `record` after the check `seen`.

    The first check of an unknown worker decides its health. Later, `rise` good checks in a row make it healthy, and
    `fall` failed ones unhealthy, so that one late answer takes no worker out. An outvoted check does not change the
    health, and both counts start again at 0.
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
