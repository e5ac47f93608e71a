"""Whose turn it is among tenants, in the script and in its twin."""

from redis import Redis

from router.fleet.model import Member, Worker
from router.policy.tenants import TenantRule
from router.policy.verdict import Blame
from router.scheduling.messages import Arrival, Beat, Call, Claim, Ended, Held, Rules
from tests.support.lua_scheduler import START, A, MakeMembers
from tests.support.tenant_jobs import LONG_MS, MakeJobs


def test_single_job_does_not_wait_behind_another_tenant_s_batch(make_jobs: MakeJobs) -> None:
    """The next slot that becomes free is for the tenant that has none."""
    jobs = make_jobs(4)
    jobs.come("run-7", 300)
    jobs.come("notebook")
    assert jobs.end_oldest() == "notebook"
    assert [jobs.end_oldest() for _ in range(3)] == ["run-7"] * 3


def test_slots_are_shared_by_weight(make_jobs: MakeJobs) -> None:
    """Of 8 slots, 6 for the tenant of weight 3, however many jobs the other one has sent first."""
    jobs = make_jobs(8, {"heavy": TenantRule(weight=3)})
    jobs.come("", 40)
    jobs.come("heavy", 20)
    for _ in range(16):
        jobs.end_oldest()
    assert jobs.count() == {"": 2, "heavy": 6}


def test_ties_go_by_ticket_after_the_default_tenant_s_jobs_have_ended(make_jobs: MakeJobs) -> None:
    """Slots that its jobs give back in one call go to both tenants in turn."""
    jobs = make_jobs(4)
    jobs.come("", 4)
    for _ in range(3):
        jobs.come("run-7")
        jobs.come("")
    over = tuple(Ended(grant.url, grant.number, Blame.OK) for grant in jobs.running)
    assert [grant.number for grant in jobs.ask(Call("p", ended=over)).granted] == [5, 6, 7, 8]


def test_tenant_that_waits_alone_gets_all_slots(make_jobs: MakeJobs) -> None:
    """A share is no cap: when the others have no more jobs, their slots are not kept for them."""
    jobs = make_jobs(4, {"heavy": TenantRule(weight=3)})
    jobs.come("heavy", 4)
    jobs.come("run-7", 8)
    for _ in range(4):
        assert jobs.end_oldest() == "run-7"
    assert jobs.count() == {"run-7": 4}


def test_one_tenant_alone_is_served_in_order_of_arrival(make_jobs: MakeJobs) -> None:
    """Whatever its name."""
    jobs = make_jobs(2)
    jobs.come("run-7", 6)
    assert [grant.number for _ in range(4) for grant in jobs.end(jobs.running[0]).granted] == [3, 4, 5, 6]


def test_higher_priority_goes_first(make_jobs: MakeJobs) -> None:
    """An evaluation takes every slot that becomes free, until it has no job left."""
    jobs = make_jobs(2, {"eval": TenantRule(priority=1)})
    jobs.come("run-7", 10)
    jobs.come("eval", 3)
    assert [jobs.end_oldest() for _ in range(4)] == ["eval", "eval", "eval", "run-7"]


def test_job_that_has_waited_long_goes_before_priority(make_jobs: MakeJobs) -> None:
    """After `aging` it is the share that counts, and no sooner."""
    jobs = make_jobs(1, {"eval": TenantRule(priority=1)}, aging_ms=5000)
    jobs.come("run-7", 3)
    jobs.come("eval", 9)
    jobs.now += 4999
    assert jobs.end_oldest() == "eval"
    jobs.now += 1
    assert jobs.end_oldest() == "run-7"


def test_weights_hold_among_jobs_that_have_waited_long(make_jobs: MakeJobs) -> None:
    """A tenant of higher priority, which sends nothing, changes no share of the others."""
    rules = {"eval": TenantRule(priority=1), "run-7": TenantRule(weight=3)}
    jobs = make_jobs(8, rules, aging_ms=5000)
    jobs.come("run-8", 30)
    jobs.come("run-7", 30)
    jobs.now += 6000
    for _ in range(16):
        jobs.end_oldest()
    assert (jobs.count()["run-7"], jobs.count()["run-8"]) == (6, 2)


def test_higher_priority_has_its_share_of_what_has_waited_long(make_jobs: MakeJobs) -> None:
    """A new job of an evaluation goes before those of a run that has more slots, until both have as many."""
    jobs = make_jobs(4, {"eval": TenantRule(priority=1)}, aging_ms=5000)
    jobs.come("run-7", 30)
    jobs.now += 6000
    jobs.come("eval", 10)
    assert [jobs.end_oldest() for _ in range(4)] == ["eval", "eval", "run-7", "run-7"]


def test_no_more_jobs_of_a_tenant_run_than_may(make_jobs: MakeJobs) -> None:
    """The others go past it, and it gets a slot when one of its own jobs ends."""
    jobs = make_jobs(4, {"run-7": TenantRule(max_running=2)})
    assert len(jobs.come("run-7", 5).granted) == 2
    assert len(jobs.come("eval", 3).granted) == 2
    mine = next(grant for grant in jobs.running if grant.tenant == "run-7")
    assert [grant.tenant for grant in jobs.end(mine).granted] in (["run-7"], ["eval"])
    assert jobs.count()["run-7"] <= 2


def test_limit_of_the_default_tenant_holds_up_no_other(make_jobs: MakeJobs) -> None:
    """Its own rule is for those not listed, too, each by itself."""
    jobs = make_jobs(3, {"default": TenantRule(max_running=1)})
    assert len(jobs.come("", 3).granted) == 1
    assert len(jobs.come("run-7", 3).granted) == 1
    assert len(jobs.come("eval", 3).granted) == 1
    assert jobs.come("eval").waiting == 7


def test_tenant_has_no_more_pending_jobs_than_may_be(make_jobs: MakeJobs) -> None:
    """Its further jobs are refused, and those of others wait."""
    jobs = make_jobs(1, {"run-7": TenantRule(max_waiting=2)})
    reply = jobs.come("run-7", 5)
    assert (len(reply.granted), len(reply.queued), reply.crowded) == (1, 4, (4, 5))
    assert jobs.come("eval").queued


def test_pending_job_that_arrives_again_counts_once(make_jobs: MakeJobs) -> None:
    """Also if the tenant's pending jobs have been counted in the same call already."""
    jobs = make_jobs(1, {"run-7": TenantRule(max_waiting=3)})
    jobs.come("run-7", 2)
    again = tuple(Arrival(number, LONG_MS, LONG_MS, tenant="run-7") for number in (3, 2, 4, 5))
    reply = jobs.ask(Call("p", arrived=again))
    assert (reply.queued[::2], reply.crowded) == ((3, 2, 4), (5,))


def test_tenant_that_may_not_wait_still_runs(make_jobs: MakeJobs) -> None:
    """While there is room."""
    jobs = make_jobs(1, {"run-7": TenantRule(max_waiting=0)})
    assert jobs.come("run-7").granted
    assert jobs.come("run-7").crowded == (2,)


def test_limit_holds_for_leases_that_are_claimed_and_handed_in(make_jobs: MakeJobs) -> None:
    """A grant through another process counts, its claim does not count twice, and a loss of Redis is made good."""
    jobs = make_jobs(4, {"run-7": TenantRule(max_running=1)})
    jobs.ask(Call("p", beat=Beat(held=(Held(A, 90, 9000, "run-7"),))))
    assert jobs.come("run-7").queued
    jobs.ask(Call("p", claims=(Claim(A, 90, 9000, "run-7"),)))
    assert jobs.ask(Call("p", ended=(Ended(A, 90, Blame.OK, tenant="run-7"),))).granted
    assert jobs.come("run-7").queued


def test_limit_is_free_again_when_a_lease_has_passed(make_jobs: MakeJobs) -> None:
    """A process that was killed does not take its tenant's slots with it."""
    jobs = make_jobs(4, {"run-7": TenantRule(max_running=1)})
    jobs.ask(Call("q", arrived=(Arrival(1, 700, LONG_MS, tenant="run-7"),)))
    assert jobs.come("run-7").queued
    jobs.now += 700
    assert jobs.ask(Call("p")).granted


def test_slip_in_a_rule_stops_no_job(redis: Redis) -> None:
    """Text that is no rule gives the plain one; a weight of 0 would divide by zero."""
    for text in ("", "[]", "null", "7", '{"weight":0,"priority":1e9,"max_running":-1,"max_waiting":"x"}', '{"weight":'):
        redis.flushall()
        jobs = MakeJobs(redis, "script")(1, {"run-7": TenantRule(weight=2)})
        redis.hset("sfr:tenants", "run-7", text)
        redis.hset("sfr:plan:head", "stale", 1)
        assert jobs.come("run-7", 3).waiting == 2
        assert jobs.end_oldest() == "run-7"
    redis.delete("sfr:tenants")
    redis.set("sfr:tenants", "x")
    redis.hset("sfr:plan:head", "stale", 1)
    assert jobs.end_oldest() == "run-7"


def test_tenants_that_are_served_leave_nothing_behind(redis: Redis) -> None:
    """No key of a line, a turn or a running job stays."""
    jobs = MakeJobs(redis, "script")(1, {"eval": TenantRule(priority=1)})
    for tenant in ("", "run-7", "eval"):
        jobs.come(tenant, 2)
    while jobs.running:
        jobs.end(jobs.running[0])
    assert set(redis.keys("*")) == {
        *("sfr:fleet", "sfr:workers", f"sfr:worker:{A}", "sfr:tenants", "sfr:ticket"),
        *("sfr:plan", "sfr:plan:head", "sfr:room", "sfr:finished", "sfr:lapse"),
    }


def test_job_that_is_over_gives_its_turn_to_no_later_one_of_its_tenant(make_members: MakeMembers) -> None:
    """After the first job of `default` is over, the tenant whose head came before the second one is next."""
    ask, _ = make_members([Member(Worker(A, max_concurrency=1))], Rules())
    came = (Arrival(1, LONG_MS, LONG_MS), Arrival(2, LONG_MS, 100), Arrival(3, LONG_MS, LONG_MS, tenant="run-7"))
    (running,) = ask(Call("p", arrived=(*came, Arrival(4, LONG_MS, LONG_MS))), START).granted
    reply = ask(Call("p", ended=(Ended(A, running.number, Blame.OK),)), START + 200)
    assert [grant.number for grant in reply.granted] == [3]
