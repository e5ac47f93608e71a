"""Steps of the fleet's history: which readings make a point, and how points become series."""

import msgspec

from router.fleet.journal.points import MOST_TENANTS, Mark, Point, advanced, laid_out, points_of
from router.fleet.stats import TenantStats, TenantUsage, Usage, WorkerStats, WorkerUsage, took, waited
from router.policy.tenants import OTHER

BEGIN = 1_800_000_000


def reading(after_s: float, jobs: int = 0, busy_ms: dict[str, int] | None = None, running: int = 0) -> Usage:
    """Return a reading so long after BEGIN: all `jobs` took 50 to 100 ms and waited for 0.5 to 1 ms."""
    fleet = {"jobs": jobs, "errors": jobs // 10, "retries": jobs // 5, took(0.1): jobs, waited(0.001): jobs}
    tenants = {name: TenantUsage(0, 0, TenantStats(busy_ms=ms)) for name, ms in (busy_ms or {}).items()}
    workers = {"http://a": WorkerUsage(running, 0, 0.0, WorkerStats())}
    return Usage(2 * running, 0.0, fleet, workers, tenants, int((BEGIN + after_s) * 1000))


def points(*readings: Usage, step_s: int = 10) -> list[Point]:
    """Return the points that these readings make."""
    mark: Mark | None = None
    found = []
    for each in readings:
        mark, point = advanced(mark, each, step_s)
        found += [point] if point else []
    return found


def test_a_step_has_the_rates_between_its_two_readings() -> None:
    """The rates count the time that has really passed, tenants' worker-seconds the whole."""
    (point,) = points(reading(0.5, 100, {"a": 5000, "b": 100}), reading(10.5, 200, {"a": 12_000, "b": 100, "c": 250}))
    assert (point.begins, point.throughput, point.errors, point.retries) == (BEGIN, 10, 1, 2)
    assert point.tenants == {"a": 7.0, "c": 0.25}
    assert (point.p50_ms, point.p99_ms, point.queue_p50_ms, point.queue_p99_ms) == (75.0, 99.5, 0.8, 1.0)


def test_numbers_have_few_digits() -> None:
    """They are rounded, because a day has many of them; seconds of tenants to hundredths."""
    first, *seen = (reading(at, running=running) for at, running in ((0, 0), (20, 1), (40, 1), (65, 0)))
    last = reading(65, 700, {"a": 1234})
    made = points(first, *seen[:2], last, step_s=60)[0]
    assert (made.throughput, made.errors, made.retries) == (10.769, 1.077, 2.154)
    assert (made.running, made.waiting, made.tenants) == (0.7, 1.3, {"a": 1.23})


def test_running_and_waiting_are_means_of_what_was_seen() -> None:
    """Of a long step all readings count, except the one with which it began: that ended the step before."""
    seen = [reading(at, running=running) for at, running in ((0, 99), (10, 1), (20, 2), (30, 3), (60, 6))]
    (point,) = points(*seen, step_s=60)
    assert (point.running, point.waiting) == (3.0, 6.0)


def test_a_missed_step_is_not_made_up() -> None:
    """After a gap nothing is said of the steps in it, and the next whole one is known again."""
    made = points(reading(0.5, 100), reading(10.5, 200), reading(43, 900), reading(50.5, 1000), reading(60.5, 1200))
    assert [(point.begins - BEGIN, point.throughput) for point in made] == [(0, 10), (40, 13.333), (50, 20)]


def test_too_short_a_reading_makes_no_point() -> None:
    """A leader without a mark that begins just before the end of a step says nothing of that step."""
    assert [point.begins - BEGIN for point in points(reading(9.8, 1), reading(10.1, 900), reading(20.1, 900))] == [10]
    assert [len(points(reading(begins), reading(10))) for begins in (4.9, 5, 5.1)] == [1, 1, 0]


def test_a_clock_that_goes_back_begins_anew() -> None:
    """No rate is negative or divided by nothing, whatever Redis' clock does."""
    made = points(reading(0.5), reading(10.5, 10), reading(-100, 20), reading(-90, 120), reading(10_000, 130))
    assert [(point.begins - BEGIN, point.throughput) for point in made] == [(0, 1), (-100, 10)]
    made = points(reading(5, 100), reading(2, 100), reading(10, 180))
    assert [(point.begins - BEGIN, point.throughput) for point in made] == [(0, 10)]


def test_redis_that_was_emptied_counts_from_zero() -> None:
    """All of the later counts are new, the tenants' too, even those that are higher again."""
    (point,) = points(reading(0, 500, {"a": 10, "b": 900}), reading(10, 30, {"a": 2000}))
    assert (point.throughput, point.tenants) == (3, {"a": 2.0})
    (point,) = points(reading(0, 500, {"a": 10}), reading(10, 0, {"a": 2000}))
    assert (point.throughput, point.tenants) == (0, {"a": 2.0})


def test_a_new_leader_goes_on_from_the_last_one_s_mark() -> None:
    """A mark that went through Redis makes the same point."""
    mark, _ = advanced(None, reading(0, 100, {"a": 5}), 10)
    read = msgspec.json.decode(msgspec.json.encode(mark), type=Mark)
    assert advanced(read, reading(10, 200, {"a": 9}), 10) == advanced(mark, reading(10, 200, {"a": 9}), 10)


def test_of_many_tenants_the_rest_is_one() -> None:
    """A point has at most MOST_TENANTS names, and together all worker-seconds."""
    (point,) = points(reading(0), reading(10, 9, {f"run-{number}": 1000 * number for number in range(200)}))
    assert len(point.tenants) == MOST_TENANTS + 1
    assert sum(point.tenants.values()) == sum(range(200))
    assert point.tenants["run-199"] == 199


def point(after_s: int, throughput: float = 1.0, **tenants: float) -> Point:
    """Return a point whose step begins so long after BEGIN."""
    return Point(BEGIN + after_s, throughput, 0, 0, None, None, None, None, 0, 0, tenants)


def test_series_have_null_where_nothing_is_known() -> None:
    """Each series has a value for each step; a tenant without jobs in a known step had 0 worker-seconds."""
    found = laid_out([point(0, a=1.5), point(20, 3.0, b=2)], 10, 4, BEGIN + 30.5)
    assert (found.begins, found.step_s) == (BEGIN - 10, 10)
    assert found.series["throughput"] == [None, 1.0, None, 3.0]
    assert found.series["p50_ms"] == [None] * 4
    assert found.tenants == {"b": [None, 0.0, None, 2], "a": [None, 1.5, None, 0.0]}


def test_a_step_that_has_just_ended_is_waited_for() -> None:
    """Until its point is there the series end before it; if it stays away, it is unknown."""
    assert laid_out([point(0)], 10, 2, BEGIN + 20.1).series["throughput"] == [None, 1.0]
    assert laid_out([point(0)], 10, 2, BEGIN + 31).series["throughput"] == [None, None]


def test_points_written_twice_or_of_the_future_do_no_harm() -> None:
    """The later of two points of a step counts, and one after now, by a clock that went back, is not shown."""
    found = laid_out([point(0), point(0, 2.0), point(500), point(3)], 10, 2, BEGIN + 11)
    assert found.series["throughput"] == [None, 2.0]


def test_series_have_the_tenants_with_most() -> None:
    """Of more than MOST_TENANTS in all steps together the rest is one series, and no second is lost."""
    made = [point(10 * step, **{f"t{step}-{number}": number for number in range(1, 41)}) for step in range(3)]
    found = laid_out(made, 10, 3, BEGIN + 30)
    assert len(found.tenants) == MOST_TENANTS + 1
    assert [sum(values[step] or 0 for values in found.tenants.values()) for step in range(3)] == [820, 820, 820]
    assert OTHER in found.tenants


def test_the_rest_of_each_step_goes_into_one_series() -> None:
    """What a step has as OTHER, and what its smaller tenants have."""
    names = [f"t{number}" for number in range(MOST_TENANTS)]
    found = laid_out([point(0, **dict.fromkeys(names, 5.0)), point(10, a=1.234, **{OTHER: 2.0})], 10, 2, BEGIN + 20)
    assert len(found.tenants) == MOST_TENANTS + 1
    assert found.tenants[OTHER] == [0.0, 3.23]


def test_foreign_points_are_passed_over() -> None:
    """What redis-cli has added hides no point."""
    text = msgspec.json.encode(point(0)).decode()
    assert points_of(["", "[1]", "{}", text, '["x"]']) == [point(0)]
