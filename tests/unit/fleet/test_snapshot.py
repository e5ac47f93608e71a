"""A router's view of the fleet, and its log lines about ejections; Redis is a fake."""

from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from router.fleet.leadership import Term
from router.fleet.model import Ejection, Health, Worker, WorkerRecord
from router.fleet.records import FleetState, Records
from router.fleet.redis_client import RedisClient
from router.fleet.snapshot import FleetView, Snapshot
from router.fleet.tenants import Tenants
from router.logs import local_time
from router.policy.pools import Pool
from router.policy.tenants import TenantRule
from tests.support.records import NEW, NOW, SECOND, SEEN


async def test_latest_fleet_has_the_last_checks(redis: RedisClient, term: Term) -> None:
    """The snapshot, which jobs use, waits for a change of health; `latest`, which people see, does not."""
    view = FleetView(redis, ())
    await Records(redis).record(term, NOW, [NEW], [], changed=True)
    await view.refresh()
    checked = replace(NEW, checked_at=NOW)
    await Records(redis).record(term, NOW + SECOND, [checked], [], changed=False)
    await view.refresh()
    assert view.snapshot.state.records == (NEW,)
    assert (await view.latest()).state.records == (checked,)


async def test_ejection_is_read_with_its_cause_and_again_when_it_changes(
    redis: RedisClient, term: Term, client: FakeAsyncRedis, caplog: pytest.LogCaptureFixture
) -> None:
    """The log has cause and end of each ejection once, and one line when it is over."""
    caplog.set_level("INFO")
    a, b = SEEN.worker.url, NEW.worker.url
    healthy = replace(SEEN, health=Health.HEALTHY)
    await Records(redis).record(term, NOW, [NEW, healthy], [], changed=True)
    view = FleetView(redis, ())
    await view.refresh()
    fields: dict[Any, Any] = {
        "times": 1,
        "failures": 5,
        "ejected_until": "1800000000.125",
        "trial": "",
        "cause": "timed out",
    }
    await client.hset(f"sfr:breaker:{a}", mapping=fields)
    await client.zadd("sfr:ejected", {a: 1_800_000_000_125})
    for _ in range(3):
        await view.refresh()
    ejection = Ejection(1_800_000_000.125, 1, 5, "timed out", 1_800_000_000_125)
    assert view.snapshot.state.ejected == {a: ejection}
    assert [condition for _, condition in view.snapshot.conditions] == [Health.EJECTED, Health.UNKNOWN]
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"Worker {a} is ejected until {local_time(ejection.until)}: 5 failed jobs in a row, the last: timed out"
    ]
    caplog.clear()
    # The trial changes the score, which is not logged. Then the next ejection follows.
    await client.zadd("sfr:ejected", {a: float("inf")})
    await view.refresh()
    assert caplog.records == []
    again: dict[Any, Any] = {"times": 2, "ejected_until": "1800000060", "cause": "returned 503: Service Unavailable"}
    await client.hset(f"sfr:breaker:{a}", mapping=again)
    await client.zadd("sfr:ejected", {a: 1_800_000_060_000, b: 1_800_000_060_000})
    await view.refresh()
    assert {record.getMessage().partition(": ")[2] for record in caplog.records} == {
        "its trial job failed: returned 503: Service Unavailable",
        "the cause is not known",
    }
    caplog.clear()
    await client.delete("sfr:ejected", f"sfr:breaker:{a}")
    await Records(redis).record(term, NOW + SECOND, [], [b], changed=True)
    await view.refresh()
    assert [record.getMessage() for record in caplog.records] == [f"Worker {a} is ejected no more: it gets jobs again"]


def test_pool_s_workers_are_those_that_may_get_jobs() -> None:
    """Jobs are placed by the whole fleet, also by workers that are unhealthy now; only healthy ones get jobs."""
    gpu = WorkerRecord(Worker("http://c:1", labels=("gpu",), memory_mb=500), Health.UNHEALTHY)
    healthy = replace(SEEN, health=Health.HEALTHY)
    plain = WorkerRecord(Worker("http://d:1", languages=("R",)), Health.HEALTHY)
    snapshot = Snapshot(FleetState((gpu, healthy, plain)))
    assert snapshot.pools.pool("gpu") == Pool(is_empty=False, largest_mb=64_000)
    assert snapshot.routable_in("") == {healthy.worker.url, plain.worker.url}
    assert snapshot.routable_in("gpu;python") == {healthy.worker.url}
    assert snapshot.routable_in("gpu;R") == snapshot.routable_in("tpu") == frozenset()
    assert snapshot.able_in("", 64_000) == {healthy.worker.url, plain.worker.url}
    assert snapshot.able_in("", 64_001) == {plain.worker.url}


@pytest.mark.parametrize(
    ("worker", "tenants", "places"),
    [
        (Worker("http://a", labels=("gpu",)), {}, False),
        (Worker("http://a", languages=("R",)), {}, True),
        (Worker("http://a", memory_mb=1), {}, True),
        (Worker("http://a"), {"x": TenantRule(weight=2)}, False),
        (Worker("http://a"), {"x": TenantRule(labels=("gpu",))}, True),
    ],
)
def test_jobs_are_looked_at_only_if_workers_or_tenants_differ(
    worker: Worker, tenants: dict[str, TenantRule], *, places: bool
) -> None:
    """Labels of workers alone change nothing for jobs that ask for none."""
    assert Snapshot(FleetState((WorkerRecord(worker),), tenants=tenants)).places_jobs is places


async def test_change_of_where_jobs_can_run_is_told(redis: RedisClient, term: Term) -> None:
    """Other abilities of workers, or other labels of tenants; not their health, nor another worker of the same kind."""
    told: list[str] = []
    view = FleetView(redis, ())
    view.on_placing, view.on_change = partial(told.append, "placing"), partial(told.append, "change")

    moments = count()

    async def told_of(record: WorkerRecord) -> list[str]:
        await Records(redis).record(term, NOW + next(moments) * SECOND, [record], [], changed=True)
        told.clear()
        await view.refresh()
        return list(told)

    assert await told_of(NEW) == ["placing", "change"]
    assert await told_of(replace(NEW, health=Health.HEALTHY)) == ["change"]
    assert await told_of(replace(NEW, worker=replace(NEW.worker, url="http://another:1"))) == ["change"]
    assert await told_of(replace(NEW, worker=replace(NEW.worker, languages=("R",)))) == ["placing", "change"]
    for rule, news in ((TenantRule(labels=("gpu",)), ["placing"]), (TenantRule(weight=2, labels=("gpu",)), [])):
        await Tenants(redis).publish(term, {"run-7": rule})
        told.clear()
        await view.refresh()
        assert told == news


@pytest.mark.parametrize(("speed", "is_news"), [(0.9, False), (1.4, False), (0.5, True)])
def test_speed_is_news_for_the_plan_only_if_a_worker_becomes_slow(speed: float, *, is_news: bool) -> None:
    """Speeds are estimated anew all the time, and a plan costs the whole fleet."""
    before, after = (Snapshot(FleetState((replace(SEEN, speed=its),))) for its in (1.0, speed))
    assert (before.fleet_print != after.fleet_print) is is_news


async def test_latest_reads_the_workers_again_and_no_tenant_that_has_not_changed(
    redis: RedisClient, term: Term, client: FakeAsyncRedis
) -> None:
    """`GET /` shows the last check at any time; a thousand tenants cost it nothing."""
    view = FleetView(redis, [])
    await Records(redis).record(term, NOW, [NEW], [], changed=True)
    await Tenants(redis).publish(term, {"run-7": TenantRule(weight=3)})
    await view.refresh()
    await Records(redis).record(term, NOW, [replace(NEW, checked_at=NOW)], [], changed=False)
    await client.hset("sfr:tenants", "run-7", "a slip")
    state = (await view.latest()).state
    assert (state.records[0].checked_at, state.tenants) == (NOW, {"run-7": TenantRule(weight=3)})
    assert (await view.latest(NEW.worker.url)).state.tenants == state.tenants


async def test_tenants_of_config_yaml_hold_until_a_sidecar_has_published_some(redis: RedisClient, term: Term) -> None:
    """A router that starts without Redis, or beside a sidecar of the last release, goes by its own file."""
    configured = {"run-7": TenantRule(weight=3)}
    view = FleetView(redis, [], configured)
    assert view.snapshot.state.tenants == configured
    await Records(redis).record(term, NOW, [NEW], [], changed=True)
    await view.refresh()
    assert view.snapshot.state.tenants == configured
    await Tenants(redis).publish(term, {})
    await view.refresh()
    assert view.snapshot.state.tenants == {}
