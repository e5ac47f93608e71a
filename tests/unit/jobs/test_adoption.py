"""What two processes do about a run that its client has left, with scripted leases, workers and notes."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from router.fleet.redis_client import RedisUnavailable
from router.http.answer import Answer
from router.jobs.sooner.transport import MAX_BYTES, WorkersAnswer
from router.policy.verdict import Outcome
from router.scheduling.messages import Adopted, Orphan
from router.scheduling.pending import QueueTimeout, RunsAlready
from tests.support.timeless import timeless
from tests.unit.jobs.test_dispatcher import Bench, Workers, says

pytestmark = pytest.mark.usefixtures("loop_time")

WELL = b'{"status": "Success"}'


class Mail:
    """The transports of all processes of a test. Notes to processes that are `dead` come to nobody."""

    def __init__(self) -> None:
        self.readers: dict[tuple[str, type], Callable[[Any], None]] = {}
        self.answers: dict[str, WorkersAnswer] = {}
        self.dead: set[str] = set()
        self.is_away = False  # Redis


class Post:
    """One process' transport."""

    def __init__(self, mail: Mail, process: str) -> None:
        self.process = process
        self._mail = mail

    def hear(self, shape: type, read: Callable[[Any], None]) -> None:
        """Keep the reader."""
        self._mail.readers[self.process, shape] = read

    async def send(self, process: str, note: msgspec.Struct) -> bool:
        """Deliver the note in a later turn of the loop."""
        if self._mail.is_away:
            raise RedisUnavailable
        if process not in self._mail.dead:
            asyncio.get_running_loop().call_soon(self._mail.readers[process, type(note)], note)
        return process not in self._mail.dead

    async def store(self, name: str, answer: WorkersAnswer, ttl_s: float = 0, process: str = "") -> None:
        """Keep the answer."""
        del ttl_s, process
        self._mail.answers[name] = answer

    async def take(self, name: str) -> WorkersAnswer | None:
        """Return the answer, once."""
        return self._mail.answers.pop(name, None)


class Two:
    """Process p has a run whose client waits for 10 s; process q has an identical job that gets the run."""

    def __init__(self, settings: dict[str, Any] | None = None) -> None:
        self.mail = Mail()
        self.owner = Bench(Workers(), settings or {}, client_s=10.5, transport=Post(self.mail, "p"))
        self.adopter = Bench(Workers(), client_s=20.5, transport=Post(self.mail, "q"))
        self.adopter.leases.script = [RunsAlready(Adopted(7, 71, "p", 1))]

    async def leave(self) -> None:
        """Begin the run, and let its client's time pass."""
        self.owner.began()
        await asyncio.sleep(10.1)
        assert [answer.outcome for answer in self.owner.given if answer] == [Outcome.DEADLINE]

    def orphans(self, bench: Bench | None = None) -> tuple[Orphan, ...]:
        """Return what p, or the process of `bench`, has told the scheduler since the last time."""
        leases = (bench or self.owner).leases
        calls, leases.calls = leases.calls, []
        return tuple(orphan for call in calls for orphan in call.orphans)

    def adopted(self) -> Answer:
        """Return the answer of q's job."""
        (answer,) = self.adopter.given
        assert answer is not None
        return answer


def test_a_run_that_its_client_has_left_answers_the_next_identical_job() -> None:
    """The answer is made anew for that job, and says so; each job is counted once, the attempt where it ran."""

    async def law() -> None:
        two = Two()
        await two.leave()
        assert two.orphans() == (Orphan(two.adopter.job.key, 10_000, 71, 1),)
        two.adopter.began()
        await asyncio.sleep(3)
        assert two.adopter.given == []
        two.owner.workers.held[0](says(body=WELL))
        await asyncio.sleep(0.1)
        answer = two.adopted()
        assert (answer.status, answer.body) == (200, WELL)
        assert dict(answer.headers)[b"x-router-worker"] == b"http://w1"
        counts = two.adopter.counts()
        assert (counts.adopted, counts.tenants[""].adopted, counts.attempts) == (1, 1, {})
        assert two.owner.answered() == [504]
        assert two.adopter.leases.ended == []
        await asyncio.sleep(30)
        assert two.owner.buffers.held_bytes == 0

    timeless(law())


@pytest.mark.parametrize("after_s", [1, 9])
def test_an_answer_is_kept_for_the_next_identical_job(after_s: float) -> None:
    """It comes at once, and counts as held bytes until then."""

    async def law() -> None:
        two = Two()
        await two.leave()
        two.owner.workers.held[0](says(body=WELL))
        await asyncio.sleep(after_s - 0.1)
        assert two.owner.buffers.held_bytes == len(WELL)
        two.adopter.began()
        await asyncio.sleep(0.1)
        assert two.adopted().body == WELL
        await asyncio.sleep(30)
        assert two.owner.buffers.held_bytes == 0

    timeless(law())


def test_an_answer_that_nobody_comes_for_is_dropped() -> None:
    """A job that comes after adopt_seconds, because its note was late, runs by itself."""

    async def law() -> None:
        two = Two()
        await two.leave()
        two.owner.workers.held[0](says(body=WELL))
        await asyncio.sleep(10)
        assert two.owner.buffers.held_bytes == 0
        two.adopter.began()
        await asyncio.sleep(0.1)
        assert [asked.ticket for asked in two.adopter.leases.asked] == [0, 71]

    timeless(law())


@pytest.mark.parametrize("body", [b"x" * (MAX_BYTES + 1), b"x" * (2**19 + 1)])
def test_an_answer_without_room_is_not_kept(body: bytes) -> None:
    """One is larger than what is handed over; the other one would take more than half of what this process may hold."""

    async def law() -> None:
        two = Two()
        await two.leave()
        first = two.orphans()
        two.owner.workers.held[0](says(404, body))
        await asyncio.sleep(0.1)
        assert two.orphans() == (msgspec.structs.replace(first[0], ms=0),)

    timeless(law())


@pytest.mark.parametrize("has_left", [False, True])
def test_an_adopter_whose_client_goes_leaves_the_run_for_another(*, has_left: bool) -> None:
    """That is so whether its time is up or it hangs up; the third job gets the answer."""

    async def law() -> None:
        two = Two()
        await two.leave()
        first = two.orphans()
        two.adopter.has_left = has_left
        two.adopter.began()
        await asyncio.sleep(0.1 if has_left else 20.1)
        assert [answer and answer.outcome for answer in two.adopter.given] == [None if has_left else Outcome.DEADLINE]
        assert two.orphans() == ()
        assert two.orphans(two.adopter) == (msgspec.structs.replace(first[0], process="p"),)
        third = Bench(Workers(), transport=Post(two.mail, "r"))
        third.leases.script = [RunsAlready(Adopted(9, 71, "p", 1))]
        third.began()
        await asyncio.sleep(0.1)
        two.owner.workers.held[0](says(body=WELL))
        await asyncio.sleep(0.1)
        (answer,) = third.given
        assert answer is not None
        assert answer.body == WELL

    timeless(law())


def test_jobs_have_keys_again_before_the_time_of_an_adopter_is_up() -> None:
    """The next job may come at once, long after the run was left behind, and must find it."""

    async def law() -> None:
        two = Two()
        await two.leave()
        two.adopter.began()
        await asyncio.sleep(16.5)
        assert not any(call.keyed_ms for call in two.adopter.leases.calls)
        await asyncio.sleep(1.6)
        assert any(call.keyed_ms for call in two.adopter.leases.calls)
        assert two.adopter.given == []

    timeless(law())


def test_a_run_without_a_result_leaves_its_adopter_to_run_by_itself() -> None:
    """The adopter asks for a lease under the ticket of the first job, and its result is its own."""

    async def law() -> None:
        two = Two()
        await two.leave()
        two.adopter.began()
        await asyncio.sleep(0.1)
        two.owner.workers.held[0](says(503, b"{}"))
        await asyncio.sleep(0.1)
        assert [asked.ticket for asked in two.adopter.leases.asked] == [0, 71]
        two.adopter.workers.held[0](says(body=WELL))
        await asyncio.sleep(0.1)
        assert two.adopted().body == WELL
        assert two.adopter.counts().adopted == 0

    timeless(law())


@pytest.mark.parametrize("is_redis", [False, True])
def test_an_adopter_notices_that_nobody_will_answer(*, is_redis: bool) -> None:
    """The process that has the run may end, and so may Redis."""

    async def law() -> None:
        two = Two()
        await two.leave()
        two.adopter.began()
        await asyncio.sleep(0.1)
        two.mail.is_away = is_redis
        two.mail.dead = set() if is_redis else {"p"}
        await asyncio.sleep(3)
        assert [asked.ticket for asked in two.adopter.leases.asked] == [0, 71]

    timeless(law())


@pytest.mark.parametrize("leaves", ["a run", "a place", "a run that it had got"])
def test_a_client_is_answered_once_the_scheduler_knows_what_its_job_leaves(leaves: str) -> None:
    """It may send the job again at once, to another process."""

    async def law() -> None:
        two = Two()
        bench = two.owner
        if leaves == "a place":
            bench.leases.script = [QueueTimeout()]
        elif leaves == "a run that it had got":
            await two.leave()
            bench = two.adopter
        bench.leases.is_calling = False
        bench.began()
        await asyncio.sleep(20.1)
        assert bench.given == []
        assert bench.leases.left_behind.is_urgent
        bench.leases.is_calling = True
        bench.leases.call()
        await asyncio.sleep(0)
        assert [answer and answer.status for answer in bench.given] == [504]

    timeless(law())


def test_an_answer_comes_at_once_where_nothing_can_be_left_behind() -> None:
    """So it is for an adopter while Redis is away."""

    async def law() -> None:
        two = Two()
        await two.leave()
        two.adopter.leases.is_calling = False
        two.adopter.began()
        await asyncio.sleep(19.9)
        two.mail.is_away = True
        await asyncio.sleep(0.2)
        assert two.adopted().status == 504

    timeless(law())


def test_a_caller_that_is_cancelled_before_its_answer_comes_takes_nothing_with_it() -> None:
    """The job has ended by then: it is counted once, and what it leaves behind stays."""

    async def law() -> None:
        two = Two()
        two.owner.leases.is_calling = False
        caller = asyncio.create_task(two.owner.run())
        await asyncio.sleep(10.1)
        caller.cancel()
        await asyncio.wait([caller])
        assert caller.cancelled()
        two.owner.leases.is_calling = True
        two.owner.leases.call()
        assert two.orphans() == (Orphan(two.adopter.job.key, 10_000, 71, 1),)
        assert two.owner.answered() == [504]

    timeless(law())


def test_a_run_has_one_adopter() -> None:
    """A second one, which no scheduler sends, runs by itself."""

    async def law() -> None:
        two = Two()
        await two.leave()
        two.adopter.began()
        await asyncio.sleep(0.1)
        third = Bench(Workers(), transport=Post(two.mail, "r"))
        third.leases.script = [RunsAlready(Adopted(9, 71, "p", 1))]
        third.began()
        await asyncio.sleep(0.1)
        assert [asked.ticket for asked in third.leases.asked] == [0, 71]
        two.owner.workers.held[0](says(body=WELL))
        await asyncio.sleep(0.1)
        assert two.adopted().body == WELL
        assert third.given == []

    timeless(law())


def test_a_client_that_hangs_up_leaves_its_run() -> None:
    """The job itself ends as ever: its answer is dropped where it comes to."""

    async def law() -> None:
        two = Two()
        run = two.owner.dispatcher.begin(two.owner.job, two.owner.given.append)
        await asyncio.sleep(1)
        two.owner.dispatcher.client_left(run)
        two.adopter.began()
        await asyncio.sleep(0.1)
        two.owner.workers.held[0](says(body=WELL))
        await asyncio.sleep(0.1)
        assert two.adopted().body == WELL
        assert [answer.body for answer in two.owner.given if answer] == [WELL]

    timeless(law())


def test_without_adoption_nothing_is_left_behind() -> None:
    """The setting 0 turns it off."""

    async def law() -> None:
        two = Two({"adopt_seconds": 0})
        await two.leave()
        assert two.orphans() == ()

    timeless(law())
