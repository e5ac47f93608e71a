"""How checks change a worker's health."""

from datetime import UTC, datetime, timedelta

import pytest

from router.fleet.model import Health, Observation, Worker, WorkerRecord
from sidecar.thresholds import judge

START = datetime(2026, 11, 1, tzinfo=UTC)
HEALTHS = {"?": Health.UNKNOWN, "H": Health.HEALTHY, "U": Health.UNHEALTHY}


@pytest.mark.parametrize(
    ("rise", "fall", "checks", "healths"),
    [
        (1, 2, "+-+--+", "HHHHUH"),
        (1, 2, "--++", "UUHH"),
        (2, 2, "-+-++", "UUUUH"),
        (3, 1, "+-+++", "HUUUH"),
        (1, 3, "+--+---", "HHHHHHU"),
        (1, 2, "+-o-o--", "HHHHHHU"),
        (2, 1, "+-+o++", "HUUUUH"),
        (1, 1, "o+oo", "?HHH"),
        (1, 2, "+--pp+", "HHUUUH"),
    ],
)
def test_health_follows_rise_and_fall(rise: int, fall: int, checks: str, healths: str) -> None:
    """The first check decides, then `rise` good or `fall` failed ones in a row; outvoted checks reset both counts."""
    record = WorkerRecord(Worker("http://a"))
    seen = ""
    for number, check in enumerate(checks):
        moment = START + timedelta(seconds=number)
        error = None if check in "+p" else "timed out"
        seen_now = Observation(moment, 1.0, error, is_outvoted=check in "op")
        record = judge(record, seen_now, rise, fall)
        seen += next(letter for letter, health in HEALTHS.items() if health is record.health)
        assert record.checked_at == moment
    assert seen == healths


def test_since_is_the_moment_of_the_last_change() -> None:
    """A check that does not change the health keeps `since`, and the counters count checks in a row."""
    record = WorkerRecord(Worker("http://a"))
    record = judge(record, Observation(START, 1.0), 1, 2)
    record = judge(record, Observation(START + timedelta(seconds=1), 1.0), 1, 2)
    assert (record.since, record.successes, record.failures) == (START, 2, 0)
    record = judge(record, Observation(START + timedelta(seconds=2), 9.0, "refused"), 1, 2)
    assert (record.health, record.since, record.successes, record.failures) == (Health.HEALTHY, START, 0, 1)
    record = judge(record, Observation(START + timedelta(seconds=3), 9.0, "timed out"), 1, 2)
    assert (record.health, record.since, record.failures) == (Health.UNHEALTHY, START + timedelta(seconds=3), 2)
    assert (record.last_error, record.latency_ms) == ("timed out", 9.0)
