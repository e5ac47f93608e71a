"""Which job of a tenant goes first where the longest do, in the script and in its twin."""

from collections.abc import Mapping

from redis import Redis

from router.fleet.model import Member, Worker
from router.policy.tenants import LONGEST_FIRST, TenantRule
from router.policy.verdict import Blame
from router.scheduling.messages import Adopted, Arrival, Call, Ended, Grant, Orphan, Rules, Wish
from tests.support.lua_scheduler import START, A, B, LuaScheduler
from tests.support.tenant_jobs import LONG_MS, Jobs, MakeJobs

BY_SIZE = {"run-7": TenantRule(order=LONGEST_FIRST)}


def served(jobs: Jobs) -> list[int]:
    """End one job after another until none is left; return the numbers of the jobs that got their room."""
    numbers = []
    while jobs.running:
        numbers += [grant.number for grant in jobs.end(jobs.running[0]).granted]
    return numbers


def test_longest_goes_first_and_equals_in_order_of_arrival(make_jobs: MakeJobs) -> None:
    """Whether they came together or one after another."""
    jobs = make_jobs(1, BY_SIZE)
    jobs.come("run-7")
    jobs.come_by_size("run-7", 10, 500, 30)
    jobs.come_by_size("run-7", 30)
    jobs.come_by_size("run-7", 7_000, 2**29 + 1, 2**29)
    assert served(jobs) == [7, 8, 6, 3, 4, 5, 2]


def test_jobs_that_come_together_get_free_slots_by_size(make_jobs: MakeJobs) -> None:
    """The longest of one call get them, beside another tenant's, which keep their places."""
    jobs = make_jobs(3, BY_SIZE)
    arrived = [Arrival(number, LONG_MS, LONG_MS, tenant="run-7" if number != 2 else "") for number in range(1, 6)]
    wishes = tuple(Wish(number, 10 * number) for number in (1, 3, 4, 5))
    reply = jobs.ask(Call("p", arrived=tuple(arrived), wishes=wishes))
    assert [grant.number for grant in reply.granted] == [5, 2, 4]


def test_job_of_another_tenant_goes_by_arrival(make_jobs: MakeJobs) -> None:
    """Even if it has a size."""
    jobs = make_jobs(1, BY_SIZE)
    jobs.come("")
    jobs.come_by_size("", 10, 500, 30)
    assert served(jobs) == [2, 3, 4]


def test_default_s_rule_orders_tenants_without_one(make_jobs: MakeJobs) -> None:
    """Those that name no tenant, and those that name an unknown one."""
    jobs = make_jobs(1, {"default": TenantRule(order=LONGEST_FIRST)})
    jobs.come("")
    jobs.come_by_size("", 10, 500)
    assert served(jobs) == [3, 2]
    jobs.come("run-9")
    jobs.come_by_size("run-9", 10, 500)
    assert served(jobs) == [6, 5]


def test_half_of_its_patience_puts_a_job_before_all(make_jobs: MakeJobs) -> None:
    """By ticket among those of which that is true, however short they are."""
    jobs = make_jobs(1, BY_SIZE)
    jobs.come("run-7")
    jobs.come_by_size("run-7", 40, 20, 10)
    jobs.come_by_size("run-7", 30, wait_ms=20_000)
    jobs.now += 9_999
    jobs.come_by_size("run-7", 50_000, wait_ms=LONG_MS * 10)
    jobs.now += 1
    assert [grant.number for grant in jobs.end(jobs.running[0]).granted] == [5]  # 6 is the longest
    jobs.now += LONG_MS // 2 - 10_000
    assert served(jobs) == [2, 3, 4, 6]


def test_retry_goes_before_all(make_jobs: MakeJobs) -> None:
    """It has had its turn, so it keeps its place by its ticket."""
    jobs = make_jobs(1, BY_SIZE)
    jobs.come_by_size("run-7", 10, 500, 300)
    (first,) = jobs.running
    jobs.running.clear()
    ended = Ended(first.url, first.number, Blame.FAULT, tenant="run-7")
    again = Arrival(10, LONG_MS, LONG_MS, first.ticket, tenant="run-7")
    jobs.come_by_size("run-7", 9_000)
    reply = jobs.ask(Call("p", ended=(ended,), arrived=(again,), wishes=(Wish(10, 1),)))
    assert [grant.number for grant in reply.granted] == [4]  # the room was free before the retry came
    assert served(jobs) == [10, 3, 1]


def test_place_that_a_client_left_goes_before_all(make_jobs: MakeJobs) -> None:
    """The patience of the job that left it was over, so the next identical job waits for no longer one."""
    jobs = make_jobs(1, BY_SIZE)
    jobs.come("run-7")
    number, ticket = jobs.come_by_size("run-7", 10).queued
    left = Call("p", left=(number,), orphans=(Orphan("k", LONG_MS, ticket),))
    jobs.come_by_size("run-7", 9_000, 8_000)
    jobs.ask(left)
    again = Arrival(5, LONG_MS, LONG_MS, tenant="run-7")
    reply = jobs.ask(Call("p", arrived=(again,), wishes=(Wish(5, 10, "k"),)))
    assert reply.adopted == (Adopted(5, ticket),)
    assert served(jobs) == [5, 3, 4]


def test_change_of_the_order_loses_no_job(make_jobs: MakeJobs) -> None:
    """Those that wait when the longest come first go before; when arrival counts again, all go by arrival."""
    jobs = make_jobs(1)
    jobs.come("run-7")
    jobs.come_by_size("run-7", 20, 30)
    jobs.scheduler.set_tenants(BY_SIZE)
    for size in (40, 50, 60):
        jobs.come_by_size("run-7", size)
    assert [grant.number for _ in range(3) for grant in jobs.end(jobs.running[0]).granted] == [2, 3, 6]
    jobs.scheduler.set_tenants({"run-7": TenantRule()})
    jobs.come_by_size("run-7", 70)
    assert served(jobs) == [4, 5, 7]


def test_turns_between_tenants_do_not_go_by_size(make_jobs: MakeJobs) -> None:
    """A tenant with the longest jobs has its share and no more."""
    jobs = make_jobs(4, BY_SIZE)
    jobs.come("eval", 12)
    jobs.come_by_size("run-7", *range(100, 1300, 100))
    for _ in range(8):
        jobs.end_oldest()
    assert jobs.count() == {"eval": 2, "run-7": 2}
    assert min(grant.number for grant in jobs.running if grant.tenant == "run-7") >= 19


def test_max_running_holds_for_the_longest(make_jobs: MakeJobs) -> None:
    """However many slots are free."""
    jobs = make_jobs(4, {"run-7": TenantRule(order=LONGEST_FIRST, max_running=2)})
    jobs.come_by_size("run-7", 10, 20, 30, 40)
    assert [grant.number for grant in jobs.running] == [4, 3]
    assert served(jobs) == [2, 1]


def with_a_slow_worker(make_jobs: MakeJobs, tenants: Mapping[str, TenantRule] = BY_SIZE, **rules: int) -> Jobs:
    """Return the jobs of a fleet of two workers with one slot each; B takes twice as long as A."""
    jobs = make_jobs(1, tenants, **rules)
    jobs.scheduler.set_fleet([Member(Worker(A, max_concurrency=1)), Member(Worker(B, max_concurrency=1), speed=0.5)])
    return jobs


def of(jobs: Jobs) -> dict[str, int]:
    """Return the number of the job that runs on each worker."""
    return {grant.url: grant.number for grant in jobs.running}


def end_on(jobs: Jobs, url: str) -> int:
    """End the job on a worker; return the number of the one that gets its room."""
    (grant,) = jobs.end(next(grant for grant in jobs.running if grant.url == url)).granted
    return grant.number


def test_slow_worker_gets_the_shortest_job(make_jobs: MakeJobs) -> None:
    """Of those that come together, and of those that are pending; the others get the longest."""
    jobs = with_a_slow_worker(make_jobs)
    jobs.come_by_size("run-7", 40, 30, 20, 10, 50, 60)
    assert of(jobs) == {A: 6, B: 4}
    assert [end_on(jobs, url) for url in (B, A, B, A)] == [3, 5, 2, 1]


def test_slow_worker_takes_a_job_that_has_waited_long(make_jobs: MakeJobs) -> None:
    """Those that hurry go before all, to any worker; after them the shortest goes there."""
    jobs = with_a_slow_worker(make_jobs)
    jobs.come_by_size("run-7", 40, 30)
    jobs.come_by_size("run-7", 900, 800, wait_ms=20_000)
    jobs.come_by_size("run-7", 20, 10)
    jobs.now += 10_000
    assert [end_on(jobs, B) for _ in range(4)] == [3, 4, 6, 5]


def test_slow_worker_takes_any_job_where_none_may_wait(make_jobs: MakeJobs) -> None:
    """Nobody is refused while it has room."""
    for rules, tenant in (
        ({"max_waiting": 0}, TenantRule(order=LONGEST_FIRST)),
        ({}, TenantRule(order=LONGEST_FIRST, max_waiting=0)),
    ):
        jobs = with_a_slow_worker(make_jobs, {"run-7": tenant}, **rules)
        jobs.come_by_size("run-7", 40, 30)
        assert of(jobs) == {A: 1, B: 2}
        jobs.end(jobs.running[0])
        jobs.end(jobs.running[0])


def test_slow_worker_takes_what_came_first_of_a_tenant_by_arrival(make_jobs: MakeJobs) -> None:
    """Sizes do not count there."""
    jobs = with_a_slow_worker(make_jobs, {})
    jobs.come_by_size("", 40, 30, 20, 10)
    assert of(jobs) == {A: 1, B: 2}
    assert end_on(jobs, B) == 3


def test_longest_job_reserves_memory_for_itself(make_jobs: MakeJobs) -> None:
    """A worker that it has reserved does not go to the job that came first."""
    jobs = make_jobs(2, BY_SIZE)
    jobs.scheduler.set_fleet([Member(Worker(A, max_concurrency=2, memory_mb=1000))])
    jobs.come("run-7", memory_mb=600)
    jobs.come_by_size("run-7", 10, memory_mb=600)
    jobs.come_by_size("run-7", 900, memory_mb=900)
    jobs.come_by_size("run-7", 20, memory_mb=100)
    assert served(jobs) == [3, 4, 2]


def test_nothing_is_left_of_the_order(redis: Redis) -> None:
    """When its jobs have gone, one way or another, Redis holds no key of it."""
    scheduler = LuaScheduler(redis, Rules())
    scheduler.set_fleet([Member(Worker(A, max_concurrency=1)), Member(Worker(B, max_concurrency=1))])
    scheduler.set_tenants(BY_SIZE)
    scheduler.step(Call("p"), START - 10_000)
    jobs = Jobs(scheduler)
    jobs.come_by_size("run-7", 10, 20, 30, 40, 50, 60)
    jobs.come_by_size("run-7", 70, wait_ms=10)
    assert redis.zcard("sfr:order:run-7/") == redis.zcard("sfr:patience") == 5
    jobs.now += 20
    jobs.ask(Call("p", left=(1,)))
    assert served(jobs) == [4, 3, 2]
    assert not redis.exists("sfr:order:run-7/", "sfr:patience")


def test_nothing_is_left_of_an_order_that_was_reset(redis: Redis) -> None:
    """Although its jobs leave the queue when no tenant's longest jobs go first any more."""
    scheduler = LuaScheduler(redis, Rules())
    scheduler.set_fleet([Member(Worker(A, max_concurrency=1))])
    scheduler.set_tenants(BY_SIZE)
    jobs = Jobs(scheduler)
    jobs.come_by_size("run-7", 10, 20, 30)
    scheduler.set_tenants({})
    jobs.ask(Call("p", left=(1, 2, 3)))
    assert not redis.exists("sfr:waiting", "sfr:order:run-7/", "sfr:patience")


def test_job_that_a_router_of_the_last_release_took_is_passed_over(redis: Redis) -> None:
    """And one that such a router has put into the queue goes before all."""
    scheduler = LuaScheduler(redis, Rules())
    scheduler.set_fleet([Member(Worker(A, max_concurrency=1))])
    scheduler.set_tenants({"default": TenantRule(order=LONGEST_FIRST)})
    scheduler.step(Call("p"), START - 10_000)
    jobs = Jobs(scheduler)
    jobs.come_by_size("", 10, 20, 30)
    redis.zrem("sfr:queue", "p:2")
    redis.hdel("sfr:waiting", "p:2")
    redis.zadd("sfr:queue", {"p:9": 9})
    redis.hset("sfr:waiting", "p:9", f"1000 {START + 1000} ")
    assert jobs.end(jobs.running[0]).granted == (Grant(9, A, 9),)
    assert served(jobs) == [1]
