"""What the exchange makes of single jobs and of retries, in the script and in its twin."""

from collections.abc import Callable, Iterator
from itertools import count

import pytest
from redis import Redis

from router.fleet.exchange import (
    BROKEN_WITHIN_MS,
    BUSY_MS,
    SETTLE_MS,
    Arrival,
    Blame,
    Call,
    Ended,
    Reply,
    Rules,
    Strategy,
)
from router.fleet.model import Worker
from router.policy.exchange import Exchange
from router.policy.plan import Member
from tests.exchanges import Script
from tests.programs import Valkey

A, B, C = URLS = ("http://a", "http://b", "http://c")
START = 1_000_000
NUMBERS = count(1)

Ask = Callable[[Call, int], Reply]


@pytest.fixture(params=["script", "twin"])
def make(request: pytest.FixtureRequest, valkey: Valkey) -> Iterator[Callable[[Rules, int], Ask]]:
    """Make an exchange of three workers with these rules and this cap, its memory settled."""
    with Redis.from_url(valkey.url, decode_responses=True) as redis:

        def made(rules: Rules, cap: int = 0) -> Ask:
            members = [Member(Worker(url, max_concurrency=cap or None)) for url in URLS]
            exchange = Script(redis, rules) if request.param == "script" else Exchange(rules, SETTLE_MS)
            exchange.set_fleet(members)
            exchange.exchange(Call("p"), START - SETTLE_MS)
            return exchange.exchange

        yield made


def begin(ask: Ask, now: int, *tried: str, retry_of: str = "") -> Reply:
    """Let one job come, a retry where it has a name."""
    ticket = 1 if retry_of else 0
    return ask(Call("p", arrived=(Arrival(next(NUMBERS), 60_000, 1, ticket, tried, retry_of),)), now)


def end(ask: Ask, now: int, url: str, blame: Blame, job: str = "", *, is_over: bool = True) -> None:
    """Run a job on the worker at `url` and let it end."""
    (grant,) = begin(ask, now, *(other for other in URLS if other != url)).granted
    assert grant.url == url
    ask(Call("p", ended=(Ended(url, grant.number, blame, is_over, job),)), now)


def looked_at(ask: Ask, now: int, *tried: str, retry_of: str = "") -> Reply:
    """Return what a job is told, and give its lease back."""
    reply = begin(ask, now, *tried, retry_of=retry_of)
    for grant in reply.granted:
        ask(Call("p", ended=(Ended(grant.url, grant.number, Blame.NONE),)), now)
    return reply


def is_ejected(ask: Ask, now: int, url: str) -> bool:
    """Whether the worker gets no job."""
    return not looked_at(ask, now, *(other for other in URLS if other != url)).granted


def test_trial_waits_for_what_timed_out_and_still_runs(make: Callable[[Rules, int], Ask]) -> None:
    """A job that runs on when the ejection is over takes the slot; the trial has it after that, and none before."""
    ask = make(Rules(failures=1, base_ms=1000), 1)
    end(ask, START, A, Blame.FAULT, is_over=False)  # its lease stays for 60 s
    assert is_ejected(ask, START + 1001, A)
    assert is_ejected(ask, START + 59_000, A)
    assert not is_ejected(ask, START + 60_001, A)


def test_settled_memory_looks_anew_who_may_get_jobs(make: Callable[[Rules, int], Ask]) -> None:
    """A worker whose trial is under way counts as one that may, until the fleet is next looked at."""
    ask = make(Rules(failures=1, base_ms=100), 0)
    end(ask, START - 1000, A, Blame.FAULT)
    (trial,) = begin(ask, START - 899, B, C).granted
    assert trial.url == A
    assert ask(Call("p"), START - 1).routable == 3
    assert ask(Call("p"), START).routable == 2


def test_worker_on_trial_is_as_loaded_as_it_is_now(make: Callable[[Rules, int], Ask]) -> None:
    """What ran there when its trial opened, and has ended since, does not count."""
    ask = make(Rules(strategy=Strategy.LEAST_LOADED, failures=1, base_ms=1000), 0)
    older = [begin(ask, START, B, C).granted[0] for _ in range(2)]
    end(ask, START, A, Blame.FAULT)
    for tried in ((A, C), (A, B)):
        assert begin(ask, START, *tried).granted
    assert ask(Call("p"), START + 1001).routable == 3
    ask(Call("p", ended=tuple(Ended(A, grant.number, Blame.NONE) for grant in older)), START + 1001)
    (trial,) = begin(ask, START + 1001).granted
    assert trial.url == A


@pytest.mark.parametrize("cap", [0, 2])
def test_busy_worker_gets_no_job_for_a_moment(make: Callable[[Rules, int], Ask], cap: int) -> None:
    """Capped or not; it is not ejected for it, and those that wait get it as soon as it is over."""
    ask = make(Rules(failures=1), cap)
    end(ask, START, A, Blame.BUSY)
    assert is_ejected(ask, START + BUSY_MS - 1, A)
    queued = ask(Call("p", arrived=(Arrival(next(NUMBERS), 60_000, 5000, 0, (B, C)),)), START + BUSY_MS - 1).queued
    assert queued
    (granted,) = ask(Call("p"), START + BUSY_MS).granted
    assert (granted.number, granted.url) == (queued[0], A)


def test_busy_at_its_trial_is_tried_again_a_moment_later(make: Callable[[Rules, int], Ask]) -> None:
    """That says neither that it is well nor that it is not: it is not kept out for longer."""
    ask = make(Rules(failures=1, base_ms=1000), 0)
    end(ask, START, A, Blame.FAULT)
    end(ask, START + 1000, A, Blame.BUSY)
    assert is_ejected(ask, START + 1000 + BUSY_MS - 1, A)
    end(ask, START + 1000 + BUSY_MS, A, Blame.OK)
    assert not is_ejected(ask, START + 1000 + BUSY_MS, A)


def test_errors_of_one_job_count_once_and_of_many_eject(make: Callable[[Rules, int], Ask]) -> None:
    """A bad job sent again and again is no bad worker; errors of different jobs in a row are."""
    ask = make(Rules(failures=3), 0)
    for _ in range(10):
        end(ask, START, A, Blame.ERROR, "bad")
    assert not is_ejected(ask, START, A)
    for job in ("other", "third"):
        end(ask, START, A, Blame.ERROR, job)
    assert is_ejected(ask, START, A)
    for job in ("one", "two", "three"):
        end(ask, START, B, Blame.ERROR, job)
        end(ask, START, B, Blame.OK)
    assert not is_ejected(ask, START, B)


def is_refused(ask: Ask, now: int, job: str) -> bool:
    """Whether a retry of the job is refused as one that breaks workers."""
    reply = looked_at(ask, now, retry_of=job)
    assert bool(reply.quarantined) != bool(reply.granted)
    return bool(reply.quarantined)


def test_two_workers_broken_alone_convict_for_a_while(make: Callable[[Rules, int], Ask]) -> None:
    """Two on one worker do not; on two they do, until the quarantine is over."""
    ask = make(Rules(quarantine_ms=5000), 0)
    end(ask, START, A, Blame.DIED, "bad")
    end(ask, START + 2 * BROKEN_WITHIN_MS, A, Blame.DIED, "bad")
    assert not is_refused(ask, START + 4100, "bad")
    end(ask, START + 4200, B, Blame.DIED, "bad")
    assert is_refused(ask, START + 4300, "bad")
    assert not is_refused(ask, START + 4300, "good")
    assert not is_refused(ask, START + 9300, "bad")


def test_job_done_well_elsewhere_is_no_suspect(make: Callable[[Rules, int], Ask]) -> None:
    """What died under it before died of something else."""
    ask = make(Rules(), 0)
    end(ask, START, A, Blame.DIED, "fine")
    end(ask, START, C, Blame.OK, "fine")
    end(ask, START, B, Blame.DIED, "fine")
    assert not is_refused(ask, START, "fine")


def test_evidence_is_shared_by_those_that_ran_together(make: Callable[[Rules, int], Ask]) -> None:
    """Two jobs on each of two workers that break: half of each is not enough, whether they still run or just died."""
    ask = make(Rules(), 0)
    for url in (A, B):
        others = [other for other in URLS if other != url]
        ran = [begin(ask, START, *others).granted[0] for _ in range(2)]
        for grant, job in zip(ran, (f"neighbour of it on {url}", "bad"), strict=True):
            ask(Call("p", ended=(Ended(url, grant.number, Blame.DIED, job=job),)), START)
    assert not is_refused(ask, START, "bad")


def test_budget_is_a_second_s_worth_at_first_and_then_what_comes_in(make: Callable[[Rules, int], Ask]) -> None:
    """10 at once, then 10 a second and 20 % of the jobs; what is saved runs off within ten seconds."""
    ask = make(Rules(budget_percent=20, budget_per_second=10), 0)

    def retries(now: int) -> int:
        return next(made for made in count() if begin(ask, now, retry_of="job").unfunded)

    assert retries(START) == 10
    assert retries(START + 500) == 5
    for _ in range(50):
        begin(ask, START + 500)
    assert retries(START + 500) == 10
    for second in range(1, 61):  # somebody looks once a second, and saves
        ask(
            Call("p", ended=(), beat=None, arrived=(Arrival(next(NUMBERS), 1, 1, 1, (), "job"),)), START + second * 1000
        )
    assert 80 <= retries(START + 61_000) <= 100


@pytest.mark.parametrize(("later_ms", "convicts"), [(4999, True), (5000, False)])
def test_evidence_against_a_job_counts_for_as_long_as_it_would_be_refused(
    make: Callable[[Rules, int], Ask], later_ms: int, *, convicts: bool
) -> None:
    """To the millisecond; and so long it is refused."""
    ask = make(Rules(failures=100, quarantine_ms=5000), 0)
    end(ask, START, A, Blame.DIED, "bad")
    assert not is_refused(ask, START, "bad")
    end(ask, START + later_ms, B, Blame.DIED, "bad")
    assert is_refused(ask, START + later_ms, "bad") is convicts
    assert is_refused(ask, START + later_ms + 4999, "bad") is convicts
    assert not is_refused(ask, START + later_ms + 5000, "bad")


@pytest.mark.parametrize(("later_ms", "convicts"), [(BROKEN_WITHIN_MS - 1, False), (BROKEN_WITHIN_MS, True)])
def test_deaths_on_one_worker_within_a_moment_share_the_blame(
    make: Callable[[Rules, int], Ask], later_ms: int, *, convicts: bool
) -> None:
    """They are of one breakdown; those after it are of another."""
    ask = make(Rules(failures=100), 0)
    end(ask, START, A, Blame.DIED, "other")
    end(ask, START + later_ms, A, Blame.DIED, "bad")
    end(ask, START + later_ms, B, Blame.DIED, "bad")
    assert is_refused(ask, START + later_ms, "bad") is convicts
    assert not is_refused(ask, START + later_ms, "other")


def test_job_that_has_done_well_is_free_of_all_that_was_held_against_it(make: Callable[[Rules, int], Ask]) -> None:
    """Convicted or not: it takes two more workers to convict it then."""
    ask = make(Rules(failures=100), 0)
    for now, convicted in ((START, False), (START + 10 * BROKEN_WITHIN_MS, True)):
        for url in (A, B)[: 2 if convicted else 1]:
            end(ask, now, url, Blame.DIED, "bad")
        assert is_refused(ask, now, "bad") is convicted
        end(ask, now, C, Blame.OK, "bad")
        assert not is_refused(ask, now, "bad")
        end(ask, now, C, Blame.DIED, "bad")
        assert not is_refused(ask, now, "bad")
        end(ask, now, C, Blame.OK, "bad")


def test_same_worker_again_is_no_second_witness(make: Callable[[Rules, int], Ask]) -> None:
    """However often a job dies there; what speaks most against it counts."""
    ask = make(Rules(failures=100), 0)
    for number in range(5):
        end(ask, START + number * BROKEN_WITHIN_MS, A, Blame.DIED, "bad")
    assert not is_refused(ask, START + 5 * BROKEN_WITHIN_MS, "bad")
    end(ask, START + 4 * BROKEN_WITHIN_MS + 1, A, Blame.DIED, "bad")  # a half, and the whole of before stays
    end(ask, START + 5 * BROKEN_WITHIN_MS, B, Blame.DIED, "bad")
    assert is_refused(ask, START + 5 * BROKEN_WITHIN_MS, "bad")
