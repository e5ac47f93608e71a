"""What the scheduler does with ends of jobs and with retries, both in the script and in its twin."""

from dataclasses import replace
from itertools import count

import pytest

from router.fleet.model import Member, Worker
from router.policy.strategy import Strategy
from router.policy.verdict import Blame
from router.scheduling.messages import (
    BROKEN_WITHIN_MS,
    DEATHS_LOOKED_AT,
    OUTAGE_SHARE,
    REST_FIRST_MS,
    REST_MAX_MS,
    SILENCE_MS,
    Arrival,
    Call,
    Ended,
    Grant,
    Reply,
    Rules,
)
from tests.support.lua_scheduler import START, A, Ask, B, C, Make, MakeMembers
from tests.support.lua_scheduler import THREE as URLS

NUMBERS = count(1)


def begin(ask: Ask, now: int, *tried: str, retry_of: str = "") -> Reply:
    """Let one job arrive; with `retry_of` it is a retry."""
    ticket = 1 if retry_of else 0
    return ask(Call("p", arrived=(Arrival(next(NUMBERS), 60_000, 1, ticket, tried, retry_of),)), now)


def end(
    ask: Ask, now: int, url: str, blame: Blame, job: str = "", *, is_over: bool = True, ms: int = 0
) -> tuple[int, Reply]:
    """Run a job on the worker at `url` and let it end; return its number and the reply to its end."""
    (grant,) = begin(ask, now, *(other for other in URLS if other != url)).granted
    assert grant.url == url
    return grant.number, ask(Call("p", ended=(Ended(url, grant.number, blame, is_over, job, ms=ms),)), now)


def looked_at(ask: Ask, now: int, *tried: str, retry_of: str = "") -> Reply:
    """Return the reply to one job, whose lease is then returned."""
    reply = begin(ask, now, *tried, retry_of=retry_of)
    for grant in reply.granted:
        ask(Call("p", ended=(Ended(grant.url, grant.number, Blame.NONE),)), now)
    return reply


def is_ejected(ask: Ask, now: int, url: str) -> bool:
    """Whether the worker gets no job."""
    return not looked_at(ask, now, *(other for other in URLS if other != url)).granted


def test_trial_waits_for_a_job_that_timed_out_and_still_runs(make: Make) -> None:
    """A job that still runs after the ejection keeps its slot, and the trial starts when its lease expires."""
    ask = make(Rules(failures=1, base_ms=1000), 1)
    end(ask, START, A, Blame.FAULT, is_over=False)  # its lease lasts 60 s
    assert is_ejected(ask, START + 1001, A)
    assert is_ejected(ask, START + 59_000, A)
    assert not is_ejected(ask, START + 60_001, A)


def test_new_plan_is_made_when_the_scheduler_has_settled(make: Make) -> None:
    """Until the new plan, a worker whose trial is under way counts as routable."""
    ask = make(Rules(failures=1, base_ms=100), 0)
    end(ask, START - 1000, A, Blame.FAULT)
    (trial,) = begin(ask, START - 899, B, C).granted
    assert trial.url == A
    assert ask(Call("p"), START - 1).routable == 3
    assert ask(Call("p"), START).routable == 2


def test_load_of_a_worker_on_trial_is_current(make: Make) -> None:
    """Jobs that ran when the trial opened and have ended since do not count."""
    ask = make(Rules(strategy=Strategy.LEAST_LOADED, failures=1, base_ms=1000), 0)
    older = [begin(ask, START, B, C).granted[0] for _ in range(2)]
    end(ask, START, A, Blame.FAULT)
    for tried in ((A, C), (A, B)):
        assert begin(ask, START, *tried).granted
    assert ask(Call("p"), START + 1001).routable == 3
    ask(Call("p", ended=tuple(Ended(A, grant.number, Blame.NONE) for grant in older)), START + 1001)
    (trial,) = begin(ask, START + 1001).granted
    assert trial.url == A


@pytest.mark.parametrize("blame", [Blame.BUSY, Blame.AWAY])
@pytest.mark.parametrize("cap", [0, 2])
def test_worker_that_turns_a_job_away_rests(make: Make, cap: int, blame: Blame) -> None:
    """With or without a cap it gets no job until its rest ends, as foretold; then it gets one pending job."""
    ask = make(Rules(failures=2), cap)
    _, reply = end(ask, START, A, blame)
    assert reply.look_in_ms == REST_FIRST_MS
    assert is_ejected(ask, START + REST_FIRST_MS - 1, A)
    arrivals = tuple(Arrival(next(NUMBERS), 60_000, 5000, 0, (B, C)) for _ in range(2))
    queued = ask(Call("p", arrived=arrivals), START + REST_FIRST_MS - 1).queued
    (granted,) = ask(Call("p"), START + REST_FIRST_MS).granted
    assert (granted.number, granted.url) == (queued[0], A)


@pytest.mark.parametrize("blame", [Blame.BUSY, Blame.AWAY])
def test_rest_doubles_until_a_job_completes(make: Make, blame: Blame) -> None:
    """The rest doubles, up to a bound, each time that the worker turns its one job away."""
    ask = make(Rules(failures=100), 0)
    now, rests = START, []
    for _ in range(8):
        _, reply = end(ask, now, A, blame)
        rests.append(reply.look_in_ms)
        now += reply.look_in_ms
        ask(Call("p"), now)
    assert rests == [min(REST_FIRST_MS * 2**times, REST_MAX_MS) for times in range(8)]
    end(ask, now, A, Blame.OK)
    assert end(ask, now, A, blame)[1].look_in_ms == REST_FIRST_MS


def test_worker_that_names_its_rest_rests_that_long(make: Make) -> None:
    """One answer with a time is enough for a whole burst that is turned away, in any order."""
    ask = make(Rules(), 0)
    first, second = (begin(ask, START, B, C).granted[0] for _ in range(2))
    for grant, ms in ((first, 0), (second, 3000)):
        ask(Call("p", ended=(Ended(A, grant.number, Blame.BUSY, ms=ms),)), START)
    assert is_ejected(ask, START + 2999, A)
    assert not is_ejected(ask, START + 3000, A)


def test_full_worker_without_a_cap_gets_as_many_jobs_as_it_takes(make: Make) -> None:
    """A worker that took four of ten jobs at once gets another one only when one of the four ends."""
    ask = make(Rules(), 0)
    sent = [begin(ask, START, B, C).granted[0] for _ in range(10)]
    ask(Call("p", ended=tuple(Ended(A, grant.number, Blame.BUSY) for grant in sent[4:])), START)
    again = tuple(Arrival(next(NUMBERS), 60_000, 60_000, grant.ticket, (B, C)) for grant in sent[4:])
    assert not ask(Call("p", arrived=again), START).granted
    for done, waiting in zip(sent[:4], again, strict=False):
        reply = ask(Call("p", ended=(Ended(A, done.number, Blame.OK),)), START)
        assert [grant.number for grant in reply.granted] == [waiting.number]


def test_full_worker_gets_more_jobs_as_long_as_it_takes_them(make: Make) -> None:
    """It gets one more after its rest and after each accepted one, and without pending jobs any number."""
    ask = make(Rules(), 0)
    running, _ = begin(ask, START, B, C).granted[0], end(ask, START, A, Blame.BUSY)
    waiting = tuple(Arrival(next(NUMBERS), 60_000, 60_000, 0, (B, C)) for _ in range(3))
    assert len(ask(Call("p", arrived=waiting), START).queued) == 6
    now = START + REST_FIRST_MS
    given: list[Grant] = []
    for pause in (0, SILENCE_MS, SILENCE_MS):
        now += pause
        given += ask(Call("p"), now).granted
    assert [grant.number for grant in given] == [arrival.number for arrival in waiting]
    over = tuple(Ended(A, grant.number, Blame.OK) for grant in (running, *given))
    ask(Call("p", ended=over), now)
    ask(Call("p"), now + SILENCE_MS)
    assert sum(len(begin(ask, now + SILENCE_MS, B, C).granted) for _ in range(50)) == 50


def taken(ask: Ask, now: int, most: int = 50) -> int:
    """Return how many of `most` more jobs the worker A gets now."""
    given = [begin(ask, now, B, C) for _ in range(most)]
    for reply in given:
        ask(Call("p", left=reply.queued[:1]), now)
    return sum(len(reply.granted) for reply in given)


@pytest.mark.parametrize(("blame", "more"), [(Blame.OK, 2), (Blame.ERROR, 2), (Blame.NONE, 1), (Blame.DIED, 1)])
def test_full_worker_gets_one_more_job_for_each_completed_since_its_rest(make: Make, blame: Blame, more: int) -> None:
    """Of a worker that ran two jobs when full, three may run after its rest, and four after one of those completed."""
    ask = make(Rules(), 0)
    ran = [begin(ask, START, B, C).granted[0] for _ in range(2)]
    end(ask, START, A, Blame.BUSY)
    now = START + REST_FIRST_MS
    assert taken(ask, now) == 1
    ask(Call("p", ended=(Ended(A, ran[0].number, blame),)), now)
    assert taken(ask, now) == more


def test_late_report_of_an_answer_also_makes_room(make: Make) -> None:
    """A worker whose answer proved an error, because another one did the job, still took the job and answered."""
    ask = make(Rules(), 0)
    ran = begin(ask, START, B, C).granted[0]
    end(ask, START, A, Blame.BUSY)
    now = START + REST_FIRST_MS
    assert taken(ask, now) == 1
    ask(Call("p", ended=(Ended(A, ran.number, Blame.ERROR, False, "job"),)), now)
    assert taken(ask, now) == 1


@pytest.mark.parametrize(("running", "more"), [(0, 50), (1, 50), (2, 1)])
def test_full_worker_without_pending_jobs_gets_any_number_if_it_has_room(make: Make, running: int, more: int) -> None:
    """If it runs as many jobs as it may, it gets one more, as if jobs were pending."""
    ask = make(Rules(), 0)
    begin(ask, START, B, C)
    first = begin(ask, START, B, C).granted[0]
    end(ask, START, A, Blame.BUSY)
    ask(Call("p", ended=(Ended(A, first.number, Blame.NONE),)), START)
    now = START + REST_FIRST_MS + SILENCE_MS
    assert ask(Call("p"), START + REST_FIRST_MS).look_in_ms == SILENCE_MS
    assert taken(ask, START + REST_FIRST_MS, running) == running
    reply = ask(Call("p"), now)
    assert reply.look_in_ms == (0 if more == 50 else SILENCE_MS)
    assert taken(ask, now) == more


def test_full_worker_gets_jobs_one_by_one_while_some_are_pending(make: Make) -> None:
    """This holds even if the pending jobs have tried it, because it has not shown how many others it takes."""
    ask = make(Rules(failures=100), 0)
    for url, ms in ((A, 0), (B, 60_000), (C, 60_000)):
        end(ask, START, url, Blame.BUSY, ms=ms)
    assert ask(Call("p", arrived=(Arrival(next(NUMBERS), 60_000, 60_000, 0, (A,)),)), START).queued
    ask(Call("p"), START + REST_FIRST_MS)
    now = START + REST_FIRST_MS + SILENCE_MS
    ask(Call("p"), now)
    assert taken(ask, now) == 2


def test_burst_that_is_turned_away_counts_once(make: Make) -> None:
    """All jobs of the burst were sent before the first refusal; being unreachable afterwards is another reason."""
    ask = make(Rules(failures=100), 0)
    sent = [begin(ask, START, B, C).granted[0] for _ in range(4)]
    blames = (Blame.BUSY, Blame.BUSY, Blame.AWAY, Blame.AWAY)
    replies = [
        ask(Call("p", ended=(Ended(A, grant.number, blame),)), START) for grant, blame in zip(sent, blames, strict=True)
    ]
    assert [reply.look_in_ms / REST_FIRST_MS for reply in replies] == [1, 1, 2, 2]


@pytest.mark.parametrize("rests_ms", [(0, 7000), (7000, 0)])
def test_first_of_several_rests_to_end_is_foretold(make: Make, rests_ms: tuple[int, int]) -> None:
    """The reply foretells the earliest end of all rests, in any order of the refusals."""
    ask = make(Rules(), 0)
    grants = [begin(ask, START, *others).granted[0] for others in ((B, C), (A, C))]
    ended = tuple(Ended(it.url, it.number, Blame.BUSY, ms=ms) for it, ms in zip(grants, rests_ms, strict=True))
    assert ask(Call("p", ended=ended), START).look_in_ms == REST_FIRST_MS


def test_worker_that_rejoins_the_fleet_does_not_rest(
    make_members: MakeMembers,
) -> None:
    """The rejoined worker may be another machine; workers that stayed still rest."""
    members = [Member(Worker(url)) for url in URLS]
    ask, set_fleet = make_members(members, Rules())
    for url in (A, B):
        end(ask, START, url, Blame.BUSY)
    for number, fleet in enumerate((members[1:], members)):
        set_fleet(fleet)
        ask(Call("p", fleet_print=str(number)), START)
    assert not is_ejected(ask, START, A)
    assert is_ejected(ask, START, B)


def test_worker_that_is_back_gets_all_its_jobs(make: Make) -> None:
    """It is back once it has answered a job, or has had one so long that it must have accepted it."""
    ask = make(Rules(), 0)
    for blame, pause in ((Blame.OK, 0), (None, SILENCE_MS + 2 * 40)):
        end(ask, START, A, Blame.AWAY, ms=40)
        now = START + REST_FIRST_MS
        (first,) = begin(ask, now, B, C).granted
        assert begin(ask, now, B, C).queued
        if blame:
            ask(Call("p", ended=(Ended(A, first.number, blame),)), now)
        else:
            assert ask(Call("p"), now + pause - 1).away == 1
        assert ask(Call("p"), now + pause).away == 0
        assert sum(len(begin(ask, now + pause, B, C).granted) for _ in range(50)) == 50


def test_fleet_that_is_away_is_not_ejected(make: Make) -> None:
    """A worker that cannot be reached is at fault only if another one can."""
    ask = make(Rules(failures=3), 0)
    for url in URLS:
        assert end(ask, START, url, Blame.AWAY)[1].away == URLS.index(url) + 1
    for round_ in range(1, 5):
        now = START + 10 * REST_MAX_MS * round_
        for url in URLS:
            end(ask, now, url, Blame.AWAY)
    assert ask(Call("p"), now).routable == 3
    ask = make(Rules(failures=3), 0)
    for round_ in range(3):
        end(ask, START + REST_MAX_MS * round_, A, Blame.AWAY)
    assert ask(Call("p"), START + REST_MAX_MS * 3).routable == 2


def test_jobs_are_queued_while_there_is_no_worker(make: Make) -> None:
    """Jobs without a worker join the queue, and their process decides how long they wait."""
    ask = make(Rules(failures=1, base_ms=100, max_ejected_percent=100), 0)
    for url in URLS:
        end(ask, START, url, Blame.FAULT)
    reply = ask(Call("p", arrived=(Arrival(next(NUMBERS), 60_000, 60_000),)), START)
    assert (reply.routable, reply.queued[:1], reply.refused) == (0, (reply.queued[0],), ())
    assert [grant.number for grant in ask(Call("p"), START + 100).granted] == [reply.queued[0]]


@pytest.mark.parametrize("ms", [0, 7000])
def test_worker_that_is_busy_at_its_trial_is_tried_later(make: Make, ms: int) -> None:
    """A refused trial decides nothing; the worker is kept out only for its rest."""
    ask = make(Rules(failures=1, base_ms=1000), 0)
    end(ask, START, A, Blame.FAULT)
    end(ask, START + 1000, A, Blame.BUSY, ms=ms)
    later = START + 1000 + max(ms, REST_MAX_MS)
    assert is_ejected(ask, later - 1, A)
    end(ask, later, A, Blame.OK)
    assert not is_ejected(ask, later, A)


def test_doubt_blames_no_worker_until_it_is_resolved(make: Make) -> None:
    """A doubtful job counts against its worker only if another worker then does it."""
    ask = make(Rules(failures=2), 0)
    for job in ("a", "b", "c"):
        number, _ = end(ask, START, A, Blame.DOUBT)
        ask(Call("p", ended=(Ended(A, number, Blame.NONE, False, job),)), START)
    assert not is_ejected(ask, START, A)
    for job in ("a", "b"):
        number, _ = end(ask, START, A, Blame.DOUBT)
        ask(Call("p", ended=(Ended(A, number, Blame.ERROR, False, job),)), START)
    assert is_ejected(ask, START, A)


@pytest.mark.parametrize("blame", [Blame.NONE, Blame.ERROR])
def test_doubtful_trial_waits_until_it_is_resolved(make: Make, blame: Blame) -> None:
    """No other trial starts meanwhile; then the worker is ejected for longer, or tried again at once."""
    ask = make(Rules(failures=1, base_ms=1000), 0)
    end(ask, START, A, Blame.FAULT)
    number, _ = end(ask, START + 1000, A, Blame.DOUBT)
    assert is_ejected(ask, START + 1500, A)
    ask(Call("p", ended=(Ended(A, number, blame, False, "job"),)), START + 1600)
    assert is_ejected(ask, START + 3000, A) is (blame is Blame.ERROR)


def test_errors_of_one_job_count_once_and_of_different_jobs_eject(make: Make) -> None:
    """One bad job sent again and again ejects no worker, but errors of different jobs in a row do."""
    ask = make(Rules(failures=3, max_ejected_percent=100), 0)
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
    """Whether a retry of the job is refused because the job is quarantined."""
    reply = looked_at(ask, now, retry_of=job)
    assert bool(reply.quarantined) != bool(reply.granted)
    return bool(reply.quarantined)


def test_retry_of_a_quarantined_job_is_refused_by_number(make: Make) -> None:
    """The number tells its process which job is refused."""
    ask = make(Rules(), 0)
    for url in (A, B):
        end(ask, START, url, Blame.DIED, "bad")
    arrival = Arrival(next(NUMBERS), 60_000, 1, 1, (), "bad")
    assert ask(Call("p", arrived=(arrival,)), START).quarantined == (arrival.number,)


def test_deaths_of_two_workers_quarantine_a_job(make: Make) -> None:
    """Two deaths on one worker do not convict a job; deaths on two workers do, until the quarantine ends."""
    ask = make(Rules(quarantine_ms=5000), 0)
    end(ask, START, A, Blame.DIED, "bad")
    end(ask, START + 2 * BROKEN_WITHIN_MS, A, Blame.DIED, "bad")
    assert not is_refused(ask, START + 4100, "bad")
    end(ask, START + 4200, B, Blame.DIED, "bad")
    assert is_refused(ask, START + 4300, "bad")
    assert not is_refused(ask, START + 4300, "good")
    assert not is_refused(ask, START + 9300, "bad")


def test_job_that_completes_elsewhere_is_no_suspect(make: Make) -> None:
    """The earlier death under it must have had another cause."""
    ask = make(Rules(), 0)
    end(ask, START, A, Blame.DIED, "fine")
    end(ask, START, C, Blame.OK, "fine")
    end(ask, START, B, Blame.DIED, "fine")
    assert not is_refused(ask, START, "fine")


def test_evidence_is_shared_by_jobs_that_ran_together(make: Make) -> None:
    """A job that shared both broken workers with another job is half guilty on each, which does not convict."""
    ask = make(Rules(), 0)
    for url in (A, B):
        others = [other for other in URLS if other != url]
        ran = [begin(ask, START, *others).granted[0] for _ in range(2)]
        for grant, job in zip(ran, (f"neighbour of it on {url}", "bad"), strict=True):
            ask(Call("p", ended=(Ended(url, grant.number, Blame.DIED, job=job),)), START)
    assert not is_refused(ask, START, "bad")


def test_job_whose_runs_die_together_is_not_quarantined(make: Make) -> None:
    """Equal jobs on several workers up to their time limit all started before the first worker died."""
    ask = make(Rules(), 0)
    for moment, url in enumerate(URLS):
        end(ask, START + 3000 * moment, url, Blame.DIED, "common", ms=60_000)
    assert not is_refused(ask, START + 9000, "common")


def test_quarantine_ends_if_an_older_run_dies_too(make: Make) -> None:
    """After a retry died at once on the next worker, an older run of the job on a third worker dies as well."""
    ask = make(Rules(), 0)
    end(ask, START, A, Blame.DIED, "common", ms=60_000)
    end(ask, START + 50, B, Blame.DIED, "common", ms=49)
    assert is_refused(ask, START + 50, "common")
    end(ask, START + 60, C, Blame.DIED, "common", ms=60_000)
    assert not is_refused(ask, START + 60, "common")
    end(ask, START + 3000, A, Blame.DIED, "common", ms=20)
    assert is_refused(ask, START + 3000, "common")


def test_runs_that_died_together_stay_one_piece_of_evidence(make: Make) -> None:
    """A later death beside another job adds only half a piece, which does not convict."""
    ask = make(Rules(failures=100), 0)
    end(ask, START, A, Blame.DIED, "common", ms=60_000)
    end(ask, START + 50, B, Blame.DIED, "common", ms=60_000)
    begin(ask, START + 60, A, B)
    end(ask, START + 3000, C, Blame.DIED, "common", ms=20)
    assert not is_refused(ask, START + 3000, "common")


@pytest.mark.parametrize(("deaths", "convicts"), [(DEATHS_LOOKED_AT - 1, False), (DEATHS_LOOKED_AT, True)])
def test_only_the_newest_deaths_show_an_outage(make_members: MakeMembers, deaths: int, *, convicts: bool) -> None:
    """Older deaths do not count once enough connections have died under the job itself."""
    workers = [Worker(f"http://w{number:02}") for number in range(DEATHS_LOOKED_AT + 2)]
    ask, _ = make_members([Member(worker) for worker in workers], Rules(failures=100))
    ask(Call("p", ended=(Ended(workers[-1].url, 100, Blame.DIED, job="other"),)), START)
    for number, worker in enumerate(workers[:deaths]):
        ask(Call("p", ended=(Ended(worker.url, number, Blame.DIED, job="bad", ms=10),)), START + 1)
    later = START + BROKEN_WITHIN_MS + 1
    ask(Call("p", ended=(Ended(workers[-2].url, 99, Blame.DIED, job="bad"),)), later)
    assert is_refused(ask, later, "bad") is convicts


@pytest.mark.parametrize("other", ["a", "z"])
def test_deaths_in_one_call_have_one_cause(make: Make, other: str) -> None:
    """Deaths reported in one call have one cause, however the jobs' names sort."""
    ask = make(Rules(failures=100), 0)
    ended = ((A, other), (B, "job"), (C, "job"))
    ask(Call("p", ended=tuple(Ended(url, 9, Blame.DIED, job=job) for url, job in ended)), START)
    assert not is_refused(ask, START, "job")


def test_job_on_workers_that_die_in_an_outage_is_not_quarantined(make: Make) -> None:
    """Deaths under other jobs at the same moment show an outage, and free a job convicted in that moment."""
    ask = make(Rules(), 0)
    end(ask, START, A, Blame.DIED, "unlucky")
    end(ask, START + 5, B, Blame.DIED, "unlucky")
    assert is_refused(ask, START + 5, "unlucky")
    end(ask, START + 10, C, Blame.DIED, "another")
    assert not is_refused(ask, START + 10, "unlucky")
    ask = make(Rules(), 0)
    end(ask, START, C, Blame.DIED, "another")
    for moment, url in enumerate((A, B, C)):
        end(ask, START + moment, url, Blame.DIED, "unlucky")
    assert 3 * OUTAGE_SHARE < 1
    assert not is_refused(ask, START + 10, "unlucky")


@pytest.mark.parametrize(("later_ms", "stays"), [(BROKEN_WITHIN_MS - 1, False), (BROKEN_WITHIN_MS, True)])
def test_outage_frees_only_jobs_just_convicted(make: Make, later_ms: int, *, stays: bool) -> None:
    """A job that was convicted well before the outage broke its workers itself."""
    ask = make(Rules(failures=100), 0)
    for url in (A, B):
        end(ask, START, url, Blame.DIED, "bad")
    for url in (A, C):
        end(ask, START + later_ms, url, Blame.DIED, f"another on {url}")
    assert is_refused(ask, START + later_ms, "bad") is stays


@pytest.mark.parametrize(("later_ms", "convicts"), [(BROKEN_WITHIN_MS - 1, False), (BROKEN_WITHIN_MS, True)])
def test_death_soon_after_another_worker_s_is_little_evidence(make: Make, later_ms: int, *, convicts: bool) -> None:
    """Two deaths close together on different workers may have one cause."""
    ask = make(Rules(failures=100), 0)
    end(ask, START, A, Blame.DIED, "other")
    end(ask, START + later_ms, B, Blame.DIED, "bad")
    now = START + later_ms + BROKEN_WITHIN_MS
    end(ask, now, C, Blame.DIED, "bad")
    assert is_refused(ask, now, "bad") is convicts


@pytest.mark.parametrize("is_drained", [True, False])
def test_death_of_a_worker_taken_out_on_purpose_convicts_no_job(make_members: MakeMembers, is_drained: bool) -> None:
    """A worker that is drained or has left the fleet was ended on purpose."""
    members = [Member(Worker(url)) for url in URLS]
    ask, set_fleet = make_members(members, Rules())
    grants = {url: begin(ask, START, *(other for other in URLS if other != url)).granted[0] for url in URLS}
    set_fleet([replace(member, is_draining=True) for member in members[:2]] * is_drained + members[2:])
    for moment, url in enumerate((A, B)):
        ended = (Ended(url, grants[url].number, Blame.DIED, job="bad"),)
        ask(Call("p", ended=ended, fleet_print="new"), START + moment)
    assert not is_refused(ask, START + 10, "bad")


def test_budget_starts_with_one_second_and_grows_with_time_and_jobs(make: Make) -> None:
    """The budget gives ten at once, then ten a second plus a fifth of the jobs, and saves ten seconds of it at most."""
    ask = make(Rules(budget_percent=20, budget_per_second=10), 0)

    def retries(now: int) -> int:
        return next(made for made in count() if begin(ask, now, retry_of="job").unfunded)

    assert retries(START) == 10
    assert retries(START + 500) == 5
    for _ in range(50):
        begin(ask, START + 500)
    assert retries(START + 500) == 10
    for second in range(1, 61):  # one call a second, so that the budget saves
        ask(
            Call("p", ended=(), beat=None, arrived=(Arrival(next(NUMBERS), 1, 1, 1, (), "job"),)), START + second * 1000
        )
    assert 80 <= retries(START + 61_000) <= 100


def test_budget_is_kept_in_thousandths(make: Make) -> None:
    """Small shares add up to a whole retry, and each refused retry is named by its number."""
    ask = make(Rules(budget_percent=99.96, budget_per_second=1), 0)
    assert begin(ask, START, retry_of="job").granted
    arrival = Arrival(next(NUMBERS), 60_000, 1, 1, (), "job")
    assert ask(Call("p", arrived=(arrival,)), START).unfunded == (arrival.number,)
    begin(ask, START)  # a new job: 0.9996 of a retry
    assert begin(ask, START, retry_of="job").granted


@pytest.mark.parametrize(("later_ms", "convicts"), [(4999, True), (5000, False)])
def test_evidence_counts_for_as_long_as_a_quarantine_lasts(make: Make, later_ms: int, *, convicts: bool) -> None:
    """Evidence and quarantine last equally long, to the millisecond."""
    ask = make(Rules(failures=100, quarantine_ms=5000), 0)
    end(ask, START, A, Blame.DIED, "bad")
    assert not is_refused(ask, START, "bad")
    end(ask, START + later_ms, B, Blame.DIED, "bad")
    assert is_refused(ask, START + later_ms, "bad") is convicts
    assert is_refused(ask, START + later_ms + 4999, "bad") is convicts
    assert not is_refused(ask, START + later_ms + 5000, "bad")


def test_expired_evidence_never_counts_again(make: Make) -> None:
    """A later death does not bring expired evidence back."""
    ask = make(Rules(failures=100, quarantine_ms=5000), 0)
    for now, url in ((START, A), (START + 5000, B), (START + 5000 + 2 * BROKEN_WITHIN_MS, B)):
        end(ask, now, url, Blame.DIED, "bad")
        assert not is_refused(ask, now, "bad")


@pytest.mark.parametrize(("later_ms", "convicts"), [(BROKEN_WITHIN_MS - 1, False), (BROKEN_WITHIN_MS, True)])
def test_deaths_close_together_on_one_worker_share_the_blame(make: Make, later_ms: int, *, convicts: bool) -> None:
    """Deaths close together belong to one breakdown, and later ones to another."""
    ask = make(Rules(failures=100), 0)
    end(ask, START, A, Blame.DIED, "other")
    end(ask, START + later_ms, A, Blame.DIED, "bad")
    now = START + later_ms + BROKEN_WITHIN_MS  # far enough apart to be no outage
    end(ask, now, B, Blame.DIED, "bad")
    assert is_refused(ask, now, "bad") is convicts
    assert not is_refused(ask, now, "other")


def test_completed_job_loses_all_evidence(make: Make) -> None:
    """After a job completed, convicted or not, it takes two more workers to convict it."""
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


def test_deaths_on_one_worker_are_one_witness(make: Make) -> None:
    """However often a job dies on one worker, only the largest share of evidence counts."""
    ask = make(Rules(failures=100), 0)
    for number in range(5):
        end(ask, START + number * BROKEN_WITHIN_MS, A, Blame.DIED, "bad")
    assert not is_refused(ask, START + 5 * BROKEN_WITHIN_MS, "bad")
    end(ask, START + 4 * BROKEN_WITHIN_MS + 1, A, Blame.DIED, "bad")  # a half, which does not replace the earlier whole
    end(ask, START + 5 * BROKEN_WITHIN_MS, B, Blame.DIED, "bad")
    assert is_refused(ask, START + 5 * BROKEN_WITHIN_MS, "bad")
