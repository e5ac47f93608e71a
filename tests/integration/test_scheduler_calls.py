"""What calls do with the queue, heartbeats and the fleet, both in the script and in its twin."""

from dataclasses import replace

import pytest

from router.fleet.model import Health, Member, Worker
from router.policy.strategy import SPREAD, Strategy
from router.policy.verdict import Blame
from router.scheduling.local.ring import weighted_ring
from router.scheduling.messages import (
    CLAIM_WITHIN_MS,
    PASSED_OVER_AT_MOST,
    PROCESS_TTL_MS,
    REST_FIRST_MS,
    SETTLE_MS,
    Arrival,
    Beat,
    Call,
    Claim,
    Ended,
    Held,
    Reply,
    Rules,
)
from tests.support.lua_scheduler import START, A, Ask, B, C, Make, MakeMembers

# Longer than all jobs of a test.
LONG_MS = 60_000


def come(
    ask: Ask, now: int, *numbers: int, process: str = "p", tried: tuple[str, ...] = (), bound_ms: int = LONG_MS
) -> Reply:
    """Let new jobs arrive."""
    arrived = tuple(Arrival(number, bound_ms, LONG_MS, 0, tried) for number in numbers)
    return ask(Call(process, arrived=arrived), now)


def over(ask: Ask, now: int, url: str, number: int, blame: Blame = Blame.OK) -> Reply:
    """Let a job of process p end."""
    return ask(Call("p", ended=(Ended(url, number, blame),)), now)


def granted(reply: Reply) -> list[int]:
    """Return the numbers of the jobs that this reply gives a lease."""
    return [grant.number for grant in reply.granted]


def fleet(*caps: int) -> list[Member]:
    """Return workers with these caps; 0 means no cap."""
    return [Member(Worker(url, max_concurrency=cap or None)) for url, cap in zip((A, B, C), caps, strict=False)]


# Tickets and the queue


def test_new_jobs_take_the_next_tickets_and_a_retry_keeps_its_place(make: Make) -> None:
    """A retry is queued before all jobs that came after its first attempt."""
    ask = make(Rules(), 1)
    reply = come(ask, START, 1, 2, 3)
    assert [(grant.number, grant.ticket) for grant in reply.granted] == [(1, 1), (2, 2), (3, 3)]
    assert reply.queued == ()
    arrived = tuple(Arrival(number, LONG_MS, LONG_MS, ticket) for number, ticket in ((4, 0), (5, 2), (6, 0)))
    assert ask(Call("p", arrived=arrived), START).queued == (4, 4, 5, 2, 6, 5)
    (grant,) = over(ask, START, reply.granted[0].url, 1).granted
    assert (grant.number, grant.ticket) == (5, 2)


@pytest.mark.parametrize(
    ("before", "tickets", "given", "following"),
    [
        ((), (0, 50, 0), [51, 50, 52], 53),
        ((), (50, 7), [50, 7], 51),
        ((), (1,), [1], 2),
        ((), (0, 0, 2), [1, 2, 2], 3),
        ((), (0, 0, 3), [4, 5, 3], 6),
        ((10,), (0, 0, 9), [11, 12, 9], 13),
    ],
)
def test_after_a_loss_of_memory_new_tickets_are_above_those_in_use(
    make: Make, before: tuple[int, ...], tickets: tuple[int, ...], given: list[int], following: int
) -> None:
    """New tickets exceed those of retries, or new jobs would pass older ones; without a loss no ticket is left out."""
    ask = make(Rules(), 0)
    for number, ticket in enumerate(before):
        ask(Call("p", arrived=(Arrival(100 + number, LONG_MS, LONG_MS, ticket),)), START)
    arrived = tuple(Arrival(number, LONG_MS, LONG_MS, ticket) for number, ticket in enumerate(tickets))
    assert [grant.ticket for grant in ask(Call("p", arrived=arrived), START).granted] == given
    assert [grant.ticket for grant in come(ask, START, 200).granted] == [following]


def test_queue_is_bounded_and_gets_room_before_new_jobs(make: Make) -> None:
    """One job too many is refused, and room that appears in a call goes to the queue's first job."""
    ask = make(Rules(max_waiting=2), 1)
    urls = [grant.url for grant in come(ask, START, 1, 2, 3).granted]
    reply = come(ask, START, 4, 5, 6)
    assert (reply.queued[::2], reply.refused, reply.waiting) == ((4, 5), (6,), 2)
    arrived = (Arrival(7, LONG_MS, LONG_MS),)
    reply = ask(Call("p", ended=(Ended(urls[0], 1, Blame.OK),), arrived=arrived), START)
    assert (granted(reply), reply.queued[::2], reply.refused, reply.waiting) == ([4], (7,), (), 2)


def test_job_passes_those_that_tried_all_workers_with_room(make_members: MakeMembers) -> None:
    """It joins the queue behind them and gets its lease in the same call."""
    ask, _ = make_members(fleet(2, 1), Rules())
    come(ask, START, 1, tried=(A,))
    assert come(ask, START, 2, tried=(A,)).queued
    reply = come(ask, START, 3)
    assert (granted(reply), reply.queued[::2], reply.waiting) == ([3], (3,), 1)


@pytest.mark.parametrize("passed_over", [PASSED_OVER_AT_MOST - 1, PASSED_OVER_AT_MOST])
def test_number_of_jobs_passed_over_is_bounded(make_members: MakeMembers, passed_over: int) -> None:
    """Beyond the bound, jobs that tried the one worker with room hold up others, which bounds a call's cost."""
    ask, _ = make_members(fleet(1, 1), Rules())
    held = {grant.url: grant.number for grant in come(ask, START, 1, 2).granted}
    come(ask, START, *range(3, 3 + passed_over), tried=(A,))
    assert come(ask, START, 100).queued
    assert granted(over(ask, START, A, held[A])) == [100] * (passed_over < PASSED_OVER_AT_MOST)


def test_job_that_has_tried_every_worker_is_exhausted(make: Make) -> None:
    """Only workers that may get jobs count; while one of them is untried the job waits for it."""
    ask = make(Rules(), 1)
    come(ask, START, 1, 2, 3)
    gone = "http://gone"
    for number, tried, is_exhausted in (
        (4, (A, B, C), True),
        (5, (A, B, C, gone), True),
        (6, (A, B), False),
        (7, (A, B, gone), False),
    ):
        reply = come(ask, START, number, tried=tried)
        assert reply.exhausted == (number,) * is_exhausted
        assert reply.queued[::2] == (number,) * (not is_exhausted)


def test_job_that_asks_again_is_in_the_queue_once(make: Make) -> None:
    """Its first place is dropped, because its process believes that the scheduler has lost it."""
    ask = make(Rules(), 1)
    urls = [grant.url for grant in come(ask, START, 1, 2, 3).granted]
    come(ask, START, 4, 5)
    assert come(ask, START, 4).waiting == 2
    assert granted(over(ask, START, urls[0], 1)) == [5]
    assert ask(Call("p", left=(4,)), START).waiting == 0


@pytest.mark.parametrize("early_ms", [1, 0])
def test_pending_job_ends_at_its_deadline(make_members: MakeMembers, early_ms: int) -> None:
    """Room that comes 1 ms before a job's deadline goes to that job; at the deadline it goes to the next one."""
    ask, _ = make_members(fleet(1), Rules())
    assert come(ask, START, 1).granted
    assert ask(Call("p", arrived=(Arrival(2, LONG_MS, 500),)), START).queued
    assert come(ask, START, 3).queued
    assert granted(over(ask, START + 500 - early_ms, A, 1)) == [2 if early_ms else 3]


def test_each_lease_expires_at_its_moment(make_members: MakeMembers) -> None:
    """Each expiry frees a slot, even if no process reports the job's end."""
    ask, _ = make_members(fleet(2), Rules())
    come(ask, START, 1, bound_ms=100)
    come(ask, START, 2, bound_ms=200)
    assert come(ask, START, 3, 4).queued[::2] == (3, 4)
    for moment, wanted in ((99, []), (100, [3]), (199, []), (200, [4])):
        assert granted(ask(Call("p"), START + moment)) == wanted


# Several processes


@pytest.mark.parametrize("early_ms", [1, 0, None])
def test_process_lives_up_to_its_time_to_live(make_members: MakeMembers, early_ms: int | None) -> None:
    """A process whose last heartbeat is a time to live ago, or that sent none, is dead and holds up no other's jobs."""
    ask, _ = make_members(fleet(1), Rules())
    if early_ms is not None:
        ask(Call("q", beat=Beat()), START)
    come(ask, START, 1)
    come(ask, START, 2, process="q")
    assert come(ask, START, 3).queued
    reply = over(ask, START + PROCESS_TTL_MS - (early_ms or 0), A, 1)
    assert (granted(reply), reply.waiting) == (([], 1) if early_ms else ([3], 0))


@pytest.mark.parametrize("outage", [True, False])
def test_jobs_of_a_dead_process_leave_a_line_that_is_not_served(make_members: MakeMembers, *, outage: bool) -> None:
    """Although no slot becomes free; but not if the process that looks has been silent, too: then Redis was away."""
    ask, _ = make_members(fleet(1), Rules())
    ask(Call("q", beat=Beat()), START)
    ask(Call("p", beat=Beat()), START if outage else START + 1)
    come(ask, START + 1, 1)
    come(ask, START + 1, 2, process="q")
    assert come(ask, START + 1, 3).queued
    reply = ask(Call("p", beat=Beat(oldest=(3,))), START + PROCESS_TTL_MS)
    assert (reply.waiting, reply.missing) == (2 if outage else 1, ())


@pytest.mark.parametrize("early_ms", [1, 0])
def test_processes_are_counted_while_they_live(make: Make, early_ms: int) -> None:
    """The number of living processes counts heartbeats; in an outage it divides the caps."""
    ask = make(Rules(), 0)
    assert ask(Call("q", beat=Beat()), START).processes == 1
    assert ask(Call("p", beat=Beat()), START + PROCESS_TTL_MS - early_ms).processes == 1 + early_ms
    assert ask(Call("p"), START + PROCESS_TTL_MS).processes == 0


def to_q(make_members: MakeMembers, rules: Rules) -> Ask:
    """Return the scheduler just after a call of process p granted A to job 2 of process q."""
    ask, _ = make_members(fleet(1, 1), rules)
    ask(Call("q", beat=Beat()), START)
    held = {grant.url: grant.number for grant in come(ask, START, 1, 3).granted}
    assert come(ask, START, 2, process="q").queued
    reply = over(ask, START, A, held[A])
    assert (granted(reply), reply.waiting) == ([], 0)
    return ask


def test_claimed_lease_lasts_as_long_as_its_job_may_run(make_members: MakeMembers) -> None:
    """The lease's time counts from the claim."""
    ask = to_q(make_members, Rules())
    reply = ask(Call("q", claims=(Claim(A, 2, 5000),)), START + 500)
    assert (reply.claimed, reply.lost) == ((2,), ())
    assert come(ask, START + 500, 4, tried=(B,)).queued
    assert granted(ask(Call("p"), START + 5499)) == []
    assert granted(ask(Call("p"), START + 5500)) == [4]


@pytest.mark.parametrize("early_ms", [1, 0])
def test_late_claim_is_lost(make_members: MakeMembers, early_ms: int) -> None:
    """A late claim is refused, so that the job arrives again."""
    ask = to_q(make_members, Rules())
    ask(Call("p"), START + CLAIM_WITHIN_MS - early_ms)
    reply = ask(Call("q", claims=(Claim(A, 2, LONG_MS),)), START + CLAIM_WITHIN_MS)
    assert (reply.claimed, reply.lost) == (((2,), ()) if early_ms else ((), (2,)))


def test_claim_of_a_job_that_has_asked_again_takes_it_out_of_the_queue(make_members: MakeMembers) -> None:
    """The grant arrived after all, so a second lease would run the job twice."""
    ask = to_q(make_members, Rules())
    assert come(ask, START, 2, process="q").queued
    reply = ask(Call("q", claims=(Claim(A, 2, LONG_MS),)), START)
    assert (reply.claimed, reply.waiting) == ((2,), 0)


def test_claim_prolongs_no_ejection(make_members: MakeMembers) -> None:
    """A lease granted before its worker's ejection is no trial."""
    ask = to_q(make_members, Rules(failures=1, base_ms=500))
    over(ask, START, A, 9, Blame.FAULT)
    assert ask(Call("q", claims=(Claim(A, 2, 400),)), START).claimed
    assert granted(come(ask, START + 499, 4, tried=(B,))) == []
    assert granted(come(ask, START + 500, 5, tried=(B,))) == [5]


def test_claimed_trial_is_the_only_one_until_its_lease_expires(make_members: MakeMembers) -> None:
    """A trial that another process claimed lasts as long as that process' job may run."""
    ask, _ = make_members(fleet(0, 1), Rules(failures=1, base_ms=1000))
    over(ask, START, A, 9, Blame.FAULT)
    assert come(ask, START, 1).granted[0].url == B
    assert come(ask, START, 2, process="q").queued
    ask(Call("q", beat=Beat()), START + 999)
    ask(Call("p"), START + 1000)
    assert ask(Call("q", claims=(Claim(A, 2, 5000),)), START + 1100).claimed
    assert come(ask, START + 1100 + CLAIM_WITHIN_MS, 3, tried=(B,)).queued
    assert granted(ask(Call("p"), START + 6099)) == []
    assert granted(ask(Call("p"), START + 6100)) == [3]


# Heartbeats


def test_heartbeat_s_reply_names_jobs_that_are_not_pending(make: Make) -> None:
    """Only this process' jobs count: equal numbers of two processes are different jobs."""
    ask = make(Rules(), 1)
    come(ask, START, 1, 2, 3)
    come(ask, START, 4)
    assert ask(Call("p", beat=Beat(oldest=(4, 99))), START).missing == (99,)
    assert ask(Call("q", beat=Beat(oldest=(4,))), START).missing == (4,)


@pytest.mark.parametrize("is_return", [False, True])
def test_only_a_lost_lease_is_registered_again(make_members: MakeMembers, is_return: bool) -> None:
    """A lost lease lasts as long as its process says; one that still exists keeps its moment."""
    ask, _ = make_members(fleet(3), Rules())
    come(ask, START, 1, bound_ms=300)
    come(ask, START, 6, bound_ms=100)
    ask(Call("p", beat=Beat(held=(Held(A, 1, 900), Held(A, 6, 100), Held(A, 7, 200)), is_return=is_return)), START)
    assert come(ask, START, 2, 3, 4).queued[::2] == (2, 3, 4)
    for moment, wanted in ((99, []), (100, [2]), (199, []), (200, [3]), (299, []), (300, [4])):
        assert granted(ask(Call("p"), START + moment)) == wanted


def test_returning_process_drops_leases_it_does_not_hold(make_members: MakeMembers) -> None:
    """After an outage a process drops its unknown leases on every worker; otherwise it drops none."""
    for is_return in (False, True):
        ask, _ = make_members(fleet(3, 1), Rules())
        assert len(come(ask, START, 1, 2, bound_ms=LONG_MS, tried=(B,)).granted) == 2
        assert come(ask, START, 5, tried=(A,)).granted
        assert come(ask, START, 3, process="q", tried=(B,)).granted
        ask(Call("p", beat=Beat(held=(Held(A, 1, LONG_MS), Held(A, 5, LONG_MS)), is_return=is_return)), START)
        # The lease that the process reports as held is registered again in the same call.
        assert granted(come(ask, START, 6, tried=(A,))) == [6] * is_return
        assert granted(come(ask, START, 7, tried=(B,))) == []


def test_returning_process_frees_slots_it_does_not_hold(make_members: MakeMembers) -> None:
    """A process that held two leases and lost one frees a slot for the next pending job."""
    ask, _ = make_members(fleet(2), Rules())
    come(ask, START, 1, 2)
    assert come(ask, START, 3, 4).queued
    reply = ask(Call("p", beat=Beat(held=(Held(A, 2, LONG_MS),), is_return=True)), START)
    assert granted(reply) == [3]


def test_quiet_fleet_saves_only_its_last_seconds_of_retries(make: Make) -> None:
    """Saved retries decay with heartbeats alone, so a quiet minute does not pay for a flood of retries."""
    ask = make(Rules(budget_percent=20, budget_per_second=1, max_waiting=0), 0)
    for second in range(60):
        ask(Call("p", beat=Beat()), START + second * 1000)
    arrived = tuple(Arrival(number, LONG_MS, 1, 1, (), "job") for number in range(60))
    assert 5 <= len(ask(Call("p", arrived=arrived), START + 60_000).granted) <= 12


# The fleet


@pytest.mark.parametrize("early_ms", [1, 0])
def test_empty_scheduler_grants_no_capped_worker_until_it_has_settled(make_members: MakeMembers, early_ms: int) -> None:
    """The limit is exact to the millisecond, and workers without a cap get jobs at once."""
    ask, _ = make_members(fleet(0, 1), Rules())  # its first call was at START - SETTLE_MS
    assert come(ask, START - SETTLE_MS, 1).granted[0].url == A
    reply = come(ask, START - early_ms, 2, tried=(A,))
    assert (granted(reply), reply.settles) == (([], True) if early_ms else ([2], False))


@pytest.mark.parametrize("weights", [(4, 2, 4, 2), (2, 1, 1, 4)])
def test_ring_spreads_turns_by_weight(make_members: MakeMembers, weights: tuple[int, ...]) -> None:
    """A ticket is a place in the ring, so jobs go to workers in the ring's order."""
    workers = [Worker(url, weight) for url, weight in zip((A, B, C, "http://d"), weights, strict=True)]
    ask, _ = make_members([Member(worker) for worker in workers], Rules())
    ring = weighted_ring(workers)
    urls = [grant.url for grant in come(ask, START, *range(12)).granted]
    assert urls == [ring[ticket % len(ring)] for ticket in range(1, 13)]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_random_starts_at_the_seed(make: Make, seed: int) -> None:
    """Each job of a call starts at another worker."""
    ask = make(Rules(strategy=Strategy.RANDOM), 0)
    arrived = tuple(Arrival(number, LONG_MS, LONG_MS) for number in range(2))
    urls = [grant.url for grant in ask(Call("p", arrived=arrived, seed=seed), START).granted]
    assert urls == [(A, B, C)[(seed + SPREAD * ticket) % 3] for ticket in (1, 2)]


def test_least_loaded_counts_leases_by_weight(make_members: MakeMembers) -> None:
    """A worker of twice the weight runs twice the jobs."""
    members = [Member(Worker(A, weight=2)), Member(Worker(B))]
    ask, _ = make_members(members, Rules(strategy=Strategy.LEAST_LOADED))
    urls = [grant.url for grant in come(ask, START, *range(9)).granted]
    assert (urls.count(A), urls.count(B)) == (6, 3)


def test_only_healthy_undrained_workers_get_jobs(make_members: MakeMembers) -> None:
    """Without such a worker those of unknown health get jobs; unhealthy and drained workers never do."""
    ill, unknown, well = Member(Worker(A), Health.UNHEALTHY), Member(Worker(B), Health.UNKNOWN), Member(Worker(C))
    ask, set_fleet = make_members([ill, unknown, well], Rules())
    assert {grant.url for grant in come(ask, START, *range(6)).granted} == {C}
    set_fleet([ill, unknown, replace(well, is_draining=True)])
    assert {grant.url for grant in come(ask, START, *range(6, 12)).granted} == {B}
    set_fleet([ill])
    reply = come(ask, START, 20)
    assert (reply.routable, reply.queued[::2]) == (0, (20,))


@pytest.mark.parametrize("blame", [Blame.BUSY, Blame.AWAY])
def test_worker_that_gets_no_jobs_does_not_rest(make_members: MakeMembers, blame: Blame) -> None:
    """A worker that is ejected or has left causes no later call, and does not count as away."""
    ask, set_fleet = make_members(fleet(0, 0, 0), Rules(failures=2))
    come(ask, START, 1, 2, 3)
    ended = tuple(Ended(A, number, its) for number, its in enumerate((Blame.FAULT, Blame.FAULT, blame)))
    reply = ask(Call("p", ended=ended), START)
    assert (reply.look_in_ms, reply.away) == (0, 0)
    assert over(ask, START, B, 7, blame).look_in_ms == REST_FIRST_MS
    set_fleet(fleet(0, 0, 0)[::2])
    reply = over(ask, START, B, 6, blame)
    assert (reply.look_in_ms, reply.away) == (0, 0)


def test_worker_that_has_left_excuses_no_unreachable_worker(make_members: MakeMembers) -> None:
    """One of the two workers that stay is reachable, so the unreachable one is at fault."""
    ask, set_fleet = make_members(fleet(0, 0, 0), Rules(failures=2))
    over(ask, START, A, 9, Blame.AWAY)
    set_fleet(fleet(0, 0, 0)[1:])
    assert ask(Call("p", ended=(Ended(B, 8, Blame.AWAY), Ended(B, 7, Blame.AWAY))), START).routable == 1


def test_worker_that_is_away_stays_so_when_the_fleet_changes(make_members: MakeMembers) -> None:
    """Its rest continues, even if no other worker rests."""
    ask, set_fleet = make_members(fleet(0, 0, 0), Rules())
    come(ask, START, 1, tried=(B, C))
    for number in (8, 9):
        assert over(ask, START, A, number, Blame.AWAY).away == 1
        set_fleet(fleet(0, 0, 0))
    assert ask(Call("p"), START).away == 1
    over(ask, START, A, 1, Blame.NONE)
    assert come(ask, START, 2, tried=(B, C)).queued


def test_rest_ends_at_its_moment_whenever_leases_expire(make_members: MakeMembers) -> None:
    """A lease that expires earlier, and one that expires much later, do not move the rest's end."""
    ask, _ = make_members(fleet(0), Rules())
    come(ask, START, 1, bound_ms=REST_FIRST_MS - 1)
    come(ask, START, 2)
    over(ask, START, A, 9, Blame.AWAY)
    assert come(ask, START, 3).queued
    for moment, wanted in ((REST_FIRST_MS - 1, []), (REST_FIRST_MS, [3])):
        assert granted(ask(Call("p"), START + moment)) == wanted


# Ejections


@pytest.mark.parametrize("blame", [Blame.FAULT, Blame.ERROR])
def test_good_job_resets_the_count_of_failures(make: Make, blame: Blame) -> None:
    """Only failures in a row eject a worker."""
    ask = make(Rules(failures=2), 0)
    ended = [Ended(A, number, its, job=f"{number}") for number, its in enumerate((blame, Blame.OK, blame, blame))]
    assert [ask(Call("p", ended=(each,)), START).routable for each in ended] == [3, 3, 3, 2]


@pytest.mark.parametrize(("percent", "left"), [(33, 3), (34, 2), (66, 2), (67, 1), (100, 0)])
def test_no_more_than_a_share_of_the_fleet_is_ejected(make: Make, percent: int, left: int) -> None:
    """Jobs need the rest of the fleet on a bad day, so ejections stop at a share."""
    ask = make(Rules(failures=1, max_ejected_percent=percent), 0)
    for url in (A, B, C):
        reply = over(ask, START, url, 9, Blame.FAULT)
    assert reply.routable == left


def test_each_trial_that_fails_doubles_the_ejection(make_members: MakeMembers) -> None:
    """Each failed trial doubles the ejection, up to max_ms."""
    ask, _ = make_members(fleet(0, 0), Rules(failures=1, base_ms=1000, max_ms=5000))
    over(ask, START, A, 900, Blame.FAULT)
    now = START
    for number, lasts_ms in enumerate((1000, 2000, 4000, 5000, 5000)):
        now += lasts_ms
        assert granted(come(ask, now - 1, number, tried=(B,))) == []
        assert granted(come(ask, now, number, tried=(B,))) == [number]
        over(ask, now, A, number, Blame.FAULT)


def test_unreported_trial_is_followed_by_another(make_members: MakeMembers) -> None:
    """The next trial opens exactly when the lease of the first one expires."""
    ask, _ = make_members(fleet(0, 0), Rules(failures=1, base_ms=1000))
    over(ask, START, A, 9, Blame.FAULT)
    assert granted(come(ask, START + 1000, 1, tried=(B,), bound_ms=700)) == [1]
    assert come(ask, START + 1001, 2, tried=(B,)).queued
    assert granted(ask(Call("p"), START + 1699)) == []
    assert granted(ask(Call("p"), START + 1700)) == [2]


@pytest.mark.parametrize("strategy", list(Strategy))
def test_older_job_s_end_opens_no_second_trial(make_members: MakeMembers, strategy: Strategy) -> None:
    """A worker under trial gets no other job, however many jobs from before its ejection end meanwhile."""
    ask, _ = make_members(fleet(0, 0), Rules(strategy=strategy, failures=1, base_ms=500))
    older = {grant.url: grant.number for number in (1, 2) for grant in come(ask, START, number).granted}
    over(ask, START, A, 9, Blame.FAULT)
    assert granted(come(ask, START + 500, 3, tried=(B,))) == [3]
    over(ask, START + 500, A, older.get(A, 1))
    assert come(ask, START + 500, 4, tried=(B,)).queued


def test_trial_of_a_full_worker_opens_when_a_lease_expires(make_members: MakeMembers) -> None:
    """Jobs that timed out and still run occupy the worker's slots, so the trial waits for one."""
    ask, _ = make_members(fleet(2, 0), Rules(failures=1, base_ms=1000))
    come(ask, START, 1, tried=(B,), bound_ms=5000)
    come(ask, START, 2, tried=(B,), bound_ms=9000)
    over(ask, START, A, 9, Blame.FAULT)
    assert granted(come(ask, START + 1000, 3, tried=(B,))) == []
    assert granted(come(ask, START + 4999, 4, tried=(B,))) == []
    assert granted(come(ask, START + 5000, 5, tried=(B,))) == [5]


def test_worker_at_fault_is_ejected_even_if_all_are_away(make: Make) -> None:
    """If no worker can be reached, only failures to connect are excused."""
    ask = make(Rules(failures=3), 0)
    for url in (A, B, C):
        over(ask, START, url, 9, Blame.AWAY)
    for _ in range(3):
        reply = over(ask, START, A, 9, Blame.FAULT)
    assert reply.routable == 2


def test_trial_without_connection_fails_even_if_all_others_are_away(make_members: MakeMembers) -> None:
    """The worker is ejected for twice as long, and then tried again."""
    ask, set_fleet = make_members(fleet(0, 0, 0), Rules(failures=2, base_ms=1000))
    for _ in range(2):
        over(ask, START, A, 9, Blame.FAULT)
    assert granted(come(ask, START + 1000, 1, tried=(B, C))) == [1]
    set_fleet(fleet(0, 0, 0))
    for url in (B, C):
        reply = over(ask, START + 1000, url, 9, Blame.AWAY)
    assert (reply.routable, reply.away) == (2, 2)
    over(ask, START + 1000, A, 1, Blame.AWAY)
    assert granted(come(ask, START + 2999, 2, tried=(B, C))) == []
    assert granted(come(ask, START + 3000, 3, tried=(B, C))) == [3]
