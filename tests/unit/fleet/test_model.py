"""Workers as values: their records in Redis, and which of them may get jobs."""

import pytest

from router.fleet.model import Health, Worker, WorkerRecord, routable
from tests.support.records import NEW, SEEN


def test_only_healthy_workers_get_jobs_or_unchecked_ones_if_none_is_healthy() -> None:
    """An unchecked worker is better than none; an unhealthy, ejected or draining one is not."""
    each = {health: (WorkerRecord(Worker(health.value)), health) for health in Health}
    out = [each[health] for health in (Health.UNHEALTHY, Health.EJECTED, Health.DRAINING)]
    healthy, unknown = each[Health.HEALTHY], each[Health.UNKNOWN]
    assert routable([healthy, unknown, *out]) == [healthy[0].worker]
    assert routable([unknown, *out]) == [unknown[0].worker]
    assert routable(out) == []


@pytest.mark.parametrize("record", [SEEN, NEW])
def test_record_survives_its_hash(record: WorkerRecord) -> None:
    """No field is lost or changed."""
    assert WorkerRecord.from_hash(record.worker.url, record.to_hash()) == record
