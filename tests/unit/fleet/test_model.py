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


@pytest.mark.parametrize(
    ("field", "text"),
    [("labels", "gpu,,ib"), ("labels", "a b"), ("languages", "c/c"), ("memory_mb", "0"), ("memory_mb", "much")],
)
def test_field_that_cannot_be_read_is_named(field: str, text: str) -> None:
    """A slip with redis-cli is told by the field's name; the worker then counts as unknown."""
    with pytest.raises(ValueError, match=f"{field}: expected"):
        WorkerRecord.from_hash("http://a:1", {**SEEN.to_hash(), field: text})
