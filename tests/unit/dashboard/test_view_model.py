"""What the dashboard shows after some readings: rates, percentiles, rows, and changes only."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest

from router.dashboard.view_model import HISTORY_S, POINT_S, POINTS, WINDOW_S, Reading, Status, ViewModel
from router.fleet.model import Ejection, Health, Worker, WorkerRecord
from router.fleet.stats import TenantStats, TenantUsage, Usage, WorkerStats, WorkerUsage, took

STATUS = Status("1", redis=True, leader=True, sidecar_s=0.5, is_sidecar_old=False, quarantined=0)
SINCE = datetime(2026, 11, 25, tzinfo=UTC)


def seen(
    at: float,
    workers: Mapping[str, WorkerUsage] | Sequence[str] = ("http://a", "http://b"),
    health: Health = Health.HEALTHY,
    draining: Sequence[str] = (),
    *,
    ejected: Mapping[str, Ejection] | None = None,
    is_away: bool = False,
    times: Mapping[float, int] | None = None,
    tenants: Mapping[str, TenantUsage] | None = None,
    **counts: int,
) -> Reading:
    """A reading at `at`, with the workers' use and the counts so far; `times` counts jobs by bound."""
    counts |= {took(bound_s): count for bound_s, count in (times or {}).items()}
    used = workers if isinstance(workers, Mapping) else {url: WorkerUsage(0, 0, 0.0, WorkerStats()) for url in workers}
    records = [WorkerRecord(Worker(url, 2, 8), health, SINCE, last_error="refused") for url in used]
    usage = (
        None
        if is_away
        else Usage(waiting=3, retries_left=1.0, fleet=counts, workers=dict(used), tenants=dict(tenants or {}))
    )
    conditions = [(record, record.health) for record in records]
    return Reading(at, STATUS, conditions, frozenset(draining), ejected or {}, usage)


def used(running: int, jobs: int = 0, busy_ms: int = 0) -> WorkerUsage:
    """One worker's use."""
    return WorkerUsage(running, 0, 0.0, WorkerStats(jobs, 0, busy_ms))


def test_rates_are_differences_over_some_seconds() -> None:
    """The first counts are no rate, and a window of some seconds evens out when processes publish."""
    view = ViewModel()
    for second, jobs in enumerate([1000, 1010, 1010, 1040, 1040, 1050, 1060]):
        view.take(seen(100 + second, jobs=jobs, errors=second, retries=2 * second))
    history = view.whole().history
    assert (history[0].jobs, history[1].jobs) == (None, 10)
    assert (history[-1].jobs, history[-1].errors, history[-1].retries) == ((1060 - 1010) / WINDOW_S, 1, 2)
    assert (history[-1].running, history[-1].waiting) == (0, 3)


def test_percentiles_are_those_of_the_last_seconds() -> None:
    """A million slow jobs of yesterday do not change today's percentiles."""
    view = ViewModel()
    view.take(seen(100, times={1.0: 10**6}))
    view.take(seen(101, times={1.0: 10**6, 0.1: 100}))
    now = view.whole().history[-1]
    assert (now.p50_ms, now.p99_ms) == (75, 99.5)
    view.take(seen(110, times={1.0: 10**6, 0.1: 100}))
    assert view.whole().history[-1].p50_ms is None


def test_counts_that_start_again_make_no_negative_rates() -> None:
    """Counts start again after Redis was emptied and after a time without watchers."""
    view = ViewModel()
    view.take(seen(100, jobs=1000))
    view.take(seen(101, jobs=5))
    assert view.whole().history[-1].jobs is None
    view.take(seen(102, jobs=9))
    assert view.whole().history[-1].jobs == 4
    view.take(seen(600, jobs=10**6))
    assert view.whole().history[-1].jobs is None


def test_tick_has_only_changes() -> None:
    """Rows and live numbers are apart, because rows seldom change and numbers always do."""
    view = ViewModel()
    view.take(seen(100))
    assert view.tick is None
    view.take(seen(101))
    assert view.tick is not None
    assert (view.tick.number, view.tick.rows, view.tick.live) == (2, [], [])
    view.take(seen(102, {"http://a": used(0), "http://b": used(4)}, draining=["http://a"]))
    tick = view.tick
    assert tick is not None
    assert [(row.place, row.is_draining) for row in tick.rows] == [(0, True)]
    assert [(live.place, live.running) for live in tick.live] == [(1, 4)]


def test_row_shows_why_a_worker_gets_no_jobs() -> None:
    """A healthy worker shows no earlier error."""
    view = ViewModel()
    view.take(seen(100, ["http://a"], Health.UNHEALTHY))
    (row,) = view.whole().rows
    assert (row.health, row.reason, row.since, row.weight, row.cap) == (
        Health.UNHEALTHY,
        "refused",
        SINCE.timestamp(),
        2,
        8,
    )
    view.take(seen(101, ["http://a"]))
    assert view.whole().rows[0].reason == ""


def test_row_shows_an_ejection_s_cause_and_end() -> None:
    """An ejected worker's row does not show an old failed check."""
    view = ViewModel()
    ejection = Ejection(130.5, failures=5, cause="returned 503: Service Unavailable")
    view.take(seen(100, ["http://a"], Health.EJECTED, ejected={"http://a": ejection}))
    (row,) = view.whole().rows
    assert (row.reason, row.ejected_until) == (
        "5 failed jobs in a row, the last: returned 503: Service Unavailable",
        130.5,
    )
    view.take(seen(101, ["http://a"]))
    assert (view.whole().rows[0].reason, view.whole().rows[0].ejected_until) == ("", None)


@pytest.mark.parametrize("health", [Health.UNHEALTHY, Health.EJECTED, Health.DRAINING])
def test_slots_are_those_of_all_workers_that_jobs_run_on(health: Health) -> None:
    """Unhealthy workers count because their jobs run until the leases expire, so running never exceeds slots."""
    view = ViewModel()
    view.take(seen(100, {"http://a": used(8), "http://b": used(8)}, health))
    now = view.whole().history[-1]
    assert (now.running, now.slots) == (16, 16)


def test_changed_list_of_workers_is_sent_as_a_whole() -> None:
    """Rows are identified by their index in the list of URLs, so a changed list means no tick."""
    view = ViewModel()
    view.take(seen(100, ["http://a"]))
    view.take(seen(101, ["http://a", "http://b"]))
    assert view.tick is None
    assert view.whole().urls == ["http://a", "http://b"]
    assert len(view.whole().live) == 2


def test_trend_is_the_mean_time_of_each_span() -> None:
    """A span without jobs is a gap, a new worker has no trend, and a removed worker's trend is dropped."""
    view = ViewModel()
    view.take(seen(100, {"http://a": used(0, 10, 1000)}))
    view.take(seen(105, {"http://a": used(0, 20, 2000)}))
    assert view.tick is not None
    assert view.tick.points is None
    view.take(seen(100 + POINT_S, {"http://a": used(0, 30, 5000)}))
    assert view.tick.points == [200]
    view.take(seen(100 + 2 * POINT_S, {"http://a": used(0, 30, 5000), "http://b": used(0, 1, 9)}))
    assert view.whole().trends == [[200, None], [None]]
    for number in range(3, POINTS + 5):
        view.take(seen(100 + number * POINT_S, {"http://b": used(0, number, 100 * number)}))
    (trend,) = view.whole().trends
    assert trend == [100] * POINTS


def test_trend_starts_again_after_a_time_without_watchers() -> None:
    """Otherwise the mean of an hour would be drawn as one of ten seconds."""
    view = ViewModel()
    for number in range(3):
        view.take(seen(100 + number * POINT_S, {"http://a": used(0, number, 100 * number)}))
    assert view.whole().trends == [[100, 100]]
    view.take(seen(4000, {"http://a": used(0, 90, 900_000)}))
    assert view.whole().trends == [[]]


def test_history_is_bounded() -> None:
    """The history is limited to five minutes, however long somebody watches."""
    view = ViewModel()
    for second in range(int(HISTORY_S) + 50):
        view.take(seen(100 + second, jobs=second))
    assert len(view.whole().history) == HISTORY_S


def test_without_redis_numbers_are_unknown_and_rows_stay() -> None:
    """Each worker's last number stays; the fleet's numbers are unknown."""
    view = ViewModel()
    view.take(seen(100, {"http://a": used(5)}))
    view.take(seen(101, {"http://a": used(0)}, is_away=True))
    assert view.tick is not None
    assert view.tick.live == []
    assert view.whole().live[0].running == 5
    now = view.whole().history[-1]
    assert (now.jobs, now.running, now.waiting) == (None, None, None)


def test_router_that_starts_without_redis_knows_no_worker_s_numbers() -> None:
    """Unknown is not 0: whoever drains a worker waits until nothing runs there."""
    view = ViewModel()
    view.take(seen(100, {"http://a": used(5)}, is_away=True))
    (live,) = view.whole().live
    assert (live.running, live.jobs, live.failures) == (None, None, None)


def test_tick_has_tenants_only_if_they_have_changed() -> None:
    """A watcher that comes gets them anyway; while Redis is away they stay as they were."""
    view, tenants = ViewModel(), {name: TenantUsage(1, 0, TenantStats()) for name in ("a", "b")}
    view.take(seen(100, tenants=tenants))
    view.take(seen(101, tenants=tenants))
    view.take(seen(102, tenants=tenants))
    assert view.tick is not None
    assert view.tick.tenants is None
    assert [row.name for row in view.whole().tenants.rows] == ["a", "b"]
    view.take(seen(103, tenants={**tenants, "b": TenantUsage(2, 0, TenantStats())}))
    assert view.tick.tenants is not None
    assert [row.name for row in view.tick.tenants.rows] == ["b", "a"]
    view.take(seen(104, is_away=True))
    assert view.tick.tenants is None
    assert [row.running for row in view.whole().tenants.rows] == [2, 1]


def test_row_tells_which_jobs_its_worker_runs() -> None:
    """Its labels, languages and memory, as one text; nothing for a worker that takes every job."""
    view = ViewModel()
    plain = seen(1)
    record, health = plain.conditions[0]
    special = replace(record, worker=replace(record.worker, labels=("gpu",), memory_mb=4000)), health
    view.take(msgspec.structs.replace(plain, conditions=[special, plain.conditions[1]]))
    assert [row.abilities for row in view.whole().rows] == ["gpu; 4000 MB", ""]


def test_row_tells_how_fast_its_worker_is() -> None:
    """And a change of its speed alone is told."""
    view = ViewModel()
    view.take(seen(1))
    (record, health), *others = seen(2).conditions
    view.take(msgspec.structs.replace(seen(2), conditions=[(replace(record, speed=0.33), health), *others]))
    assert [row.speed for row in view.whole().rows] == [0.33, 1.0]
    assert view.tick is not None
    assert [row.place for row in view.tick.rows] == [0]
