"""Each step of the dispatcher, with scripted leases and scripted workers."""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Self, cast

import pytest

from router.config.settings import Settings
from router.fleet.model import Worker, WorkerRecord
from router.fleet.records import FleetState
from router.fleet.snapshot import Snapshot
from router.http.answer import Answer
from router.http.headers import read_worker_head
from router.http.response import Phase, Response, UpstreamFailed
from router.jobs.body_budget import BodyBudget
from router.jobs.dispatcher import LEASE_MARGIN_S, Dispatcher
from router.jobs.job import Job
from router.jobs.job_log import CLIENT_LEFT_STATUS
from router.jobs.sooner.sizes import Sizes
from router.policy.placement import ANYWHERE, Placement
from router.policy.tenants import TenantRule
from router.policy.verdict import Blame, Kind, Outcome
from router.scheduling.left_behind import LeftBehind
from router.scheduling.messages import Arrival, Call, Reply, RunOver, Wish
from router.scheduling.pending import (
    ClientLeft,
    Exhausted,
    Lease,
    NoRoom,
    NoSuchLabel,
    NoWorkers,
    Quarantined,
    QueueFull,
    QueueTimeout,
    TenantFull,
    TooLarge,
    TooManyPools,
    Unfunded,
)
from router.telemetry.recorder import Counts, Recorder
from router.upstream.pool import OutcomeCallback, Request
from tests.support.jobs import ADMITTED
from tests.support.sizes import unknown_sizes
from tests.support.timeless import timeless

BODY = json.dumps({"code": "x", "run_timeout": 5, "compile_timeout": 5}).encode()
WELL = b'{"status": "Success"}'
SICK = b'{"status": "SandboxError"}'


@dataclass
class LeaseRequest:
    """One request for a lease."""

    bound_s: float
    wait_s: float
    ticket: int
    tried: tuple[str, ...]
    retry_of: str
    job_since: float
    then: Callable[[Lease | NoRoom], None]
    placement: Placement
    wish: Wish | None = None

    @property
    def since(self) -> float:
        """When the job asked: when it came."""
        return self.job_since

    @property
    def arrival(self) -> Arrival:
        """As the scheduler knows a job that waits: it has a ticket."""
        return Arrival(0, 0, 0, self.ticket or 50)


class Leases:
    """Leases that answer by `script`; None means no answer for now."""

    def __init__(self) -> None:
        self.script: list[Lease | NoRoom | None] = []
        self.asked: list[LeaseRequest] = []
        self.ended: list[tuple[str, Blame, bool, str]] = []
        self.resolved: list[tuple[tuple[str, ...], Blame, str]] = []
        self.causes: list[tuple[str, int]] = []  # of each end, with its milliseconds
        self.doubts: list[str] = []
        self.given_up: list[object] = []
        self.moved: list[Placement] = []
        self.refused: list[NoRoom] = []
        self.fault: Exception | None = None
        self.unreached: set[str] = set()  # pools none of whose workers can be reached
        self.is_enough = self.others_wait = False
        self.calls: list[Call] = []  # those that tell something
        self.is_calling = True
        self.left_behind = LeftBehind(self._call_soon)

    def _call_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self.call)

    def call(self) -> None:
        """Tell the scheduler all that is to be told, and have its reply; not while `is_calling` is off."""
        if self.is_calling and self.left_behind.has_news:
            self.calls.append(self.left_behind.told_in(Call("p")))
            self.left_behind.hear(Reply())

    def has_workers(self, pool: str) -> bool:
        """Whether a worker of this pool can be reached."""
        return pool not in self.unreached

    def is_enough_for(self, job_since: float, pool: str) -> bool:
        """Return this answer for every job."""
        del job_since, pool
        return self.is_enough

    def ask(
        self,
        bound_s: float,
        wait_s: float,
        has_left: Callable[[], Coroutine[None, None, None]],
        then: Callable[[Lease | NoRoom], None],
        ticket: int = 0,
        tried: tuple[str, ...] = (),
        retry_of: str = "",
        job_since: float = 0.0,
        placement: Placement = ANYWHERE,
        wish: Wish | None = None,
    ) -> LeaseRequest:
        """Record the request, and answer in a later turn of the loop."""
        del has_left
        asked = LeaseRequest(bound_s, wait_s, ticket, tried, retry_of, job_since, then, placement, wish)
        self.asked.append(asked)
        number = len(self.asked)
        given = self.script.pop(0) if self.script else Lease(number, f"http://w{number}", 70 + number, 5)
        if given is not None:
            asyncio.get_running_loop().call_soon(then, given)
        return asked

    def give_up(self, pending: object) -> None:
        """Record the call."""
        self.given_up.append(pending)

    def move(self, moved: Sequence[tuple[LeaseRequest, Placement]]) -> None:
        """Record the call."""
        self.moved += [placement for _, placement in moved]

    def refuse(self, pending: LeaseRequest, reason: NoRoom) -> None:
        """Record the call, and answer the request."""
        self.refused.append(reason)
        asyncio.get_running_loop().call_soon(pending.then, reason)

    def end(
        self, lease: Lease, blame: Blame, *, is_over: bool = True, job: str = "", cause: str = "", ms: int = 0
    ) -> None:
        """Record the end, or raise `fault`."""
        if self.fault:
            raise self.fault
        self.causes.append((cause, ms))
        self.ended.append((lease.url, blame, is_over, job))

    @property
    def runs_over(self) -> list[RunOver]:
        """The shared runs that are over."""
        return [over for call in self.calls for over in call.runs_over] + list(self.left_behind.runs_over)

    def resolve(self, doubts: tuple[tuple[Lease, str], ...], blame: Blame, job: str = "") -> None:
        """Record the call."""
        self.doubts += [cause for _, cause in doubts]
        self.resolved.append((tuple(lease.url for lease, _ in doubts), blame, job))


class Parts:
    """The rest of a large answer in one part."""

    def __init__(self, failure: UpstreamFailed | None = None) -> None:
        self.is_closed = False
        self._parts: list[bytes] = [b"rest"]
        self._failure = failure

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._failure is not None:
            raise self._failure
        if not self._parts:
            raise StopAsyncIteration
        return self._parts.pop()

    def close(self) -> None:
        """Record the call."""
        self.is_closed = True


def says(status: int = 200, body: bytes = WELL, rest: Parts | None = None) -> Response:
    """Return a worker's answer."""
    return Response(read_worker_head(status, [(b"content-type", b"text/plain")]), body, rest)


def fails(phase: Phase) -> UpstreamFailed:
    """Return the failure of an attempt."""
    return UpstreamFailed("http://w", phase, f"is {phase}")


class Workers:
    """Workers that answer by `script` in a later turn of the loop; with an empty script they hold the job."""

    def __init__(self, *script: Response | UpstreamFailed) -> None:
        self.script = list(script)
        self.sent: list[tuple[str, Request, float]] = []
        self.held: list[OutcomeCallback] = []

    def send(self, worker_url: str, request: Request, timeout_s: float, deliver: OutcomeCallback) -> None:
        """Accept the job."""
        self.sent.append((worker_url, request, timeout_s))
        if self.script:
            asyncio.get_running_loop().call_soon(deliver, self.script.pop(0))
        else:
            self.held.append(deliver)


@dataclass
class Bench:
    """A dispatcher with scripted leases and workers."""

    workers: Workers = field(default_factory=Workers)
    settings: dict[str, Any] = field(default_factory=dict)
    quarantined: frozenset[str] = frozenset()
    client_s: float | None = None
    has_left: bool = False
    tenant: str = ""
    tenants: Mapping[str, TenantRule] = field(default_factory=dict)
    fleet: Sequence[Worker] = ()
    sizes: Sizes | None = None
    transport: Any = None

    def __post_init__(self) -> None:
        self.leases, self.recorder, self.buffers = Leases(), Recorder(), BodyBudget(2**20)
        records = tuple(WorkerRecord(worker) for worker in self.fleet)
        state = FleetState(records, quarantined=self.quarantined, tenants=self.tenants)
        self.view = view = cast("Any", SimpleNamespace(snapshot=Snapshot(state)))
        parts: tuple[Any, Any] = (self.leases, self.workers)
        settings = Settings.model_validate({"timeout": 100, "job_grace": 2, **self.settings})
        self.dispatcher = Dispatcher(
            *parts, view, settings, self.recorder, self.sizes or unknown_sizes(view), transport=self.transport
        )
        share = self.buffers.share()
        share.grow(len(BODY))
        self.job = Job(
            *(b"POST", "/run_code", b"/run_code?a", b"x: y\r\n", BODY, b"id", self._leaves, share, ADMITTED),
            *(self.client_s, None, self.tenant),
        )
        self.given: list[Answer | None] = []

    async def _leaves(self) -> None:
        if not self.has_left:
            await asyncio.Event().wait()

    async def run(self) -> Answer:
        """Return the job's answer."""
        return await self.dispatcher.run(self.job)

    def began(self) -> None:
        """Begin the job; `given` gets its answer."""
        self.dispatcher.begin(self.job, self.given.append)

    def counts(self) -> Counts:
        """Return the counts since the last call."""
        return self.recorder.take()

    def answered(self) -> list[int]:
        """Return the counted statuses since the last call."""
        return [status for (_, status, _), timing in self.counts().jobs.items() for _ in range(timing.count)]


def test_lease_covers_the_time_that_the_job_may_take() -> None:
    """The lease lasts a second longer than the attempt; the job waits for the queue's timeout or its client's."""

    async def law() -> None:
        for client_s, settings, wait_s in (
            (None, {"queue": {"timeout": 30}}, 30),
            (9.5, {"queue": {"timeout": 30}}, 9),
            (None, {"queue": {"timeout": 300}}, 100),
        ):
            bench = Bench(Workers(says()), settings, client_s=client_s)
            answer = await bench.run()
            (asked,) = bench.leases.asked
            assert (asked.bound_s, asked.ticket, asked.tried, asked.retry_of) == (12 + LEASE_MARGIN_S, 0, (), "")
            assert asked.wait_s == pytest.approx(wait_s, abs=0.01)
            ((url, request, timeout_s),) = bench.workers.sent
            assert (url, timeout_s, request.target, request.body) == ("http://w1", 12, b"/run_code?a", BODY)
            assert request.headers.startswith(b"x: y\r\n")
            assert (answer.status, answer.body) == (200, WELL)
            assert dict(answer.headers)[b"x-router-attempt"] == b"1"
            assert bench.leases.ended == [("http://w1", Blame.OK, True, "")]

    timeless(law())


@pytest.mark.parametrize(
    ("first", "blame", "is_over", "names_it", "names_it_after"),
    [
        (fails(Phase.DIED), Blame.DIED, True, True, True),
        (fails(Phase.GARBLED), Blame.FAULT, True, False, False),
        (fails(Phase.TIMED_OUT), Blame.FAULT, False, False, False),
        (says(503), Blame.FAULT, True, False, False),
        (says(500), Blame.DOUBT, True, False, False),
        (says(200, SICK), Blame.DOUBT, True, False, False),
        (says(200, b"<html>"), Blame.FAULT, True, False, False),
    ],
)
def test_each_failure_is_reported_and_the_job_is_retried(
    first: Response | UpstreamFailed, blame: Blame, is_over: bool, names_it: bool, names_it_after: bool
) -> None:
    """A job under which a worker died is named when it ends well; otherwise it would stay suspect and be refused.

    An error that may be the job's own counts against its worker, and names the job, once another worker has done it.
    """

    async def law() -> None:
        bench = Bench(Workers(first, says()), {"queue": {"timeout": 300}})
        answer = await bench.run()
        name = bench.job.name
        assert bench.leases.resolved == ([(("http://w1",), Blame.ERROR, name)] if blame is Blame.DOUBT else [])
        assert bench.leases.ended == [
            ("http://w1", blame, is_over, name if names_it else ""),
            ("http://w2", Blame.OK, True, name if names_it_after else ""),
        ]
        _, again = bench.leases.asked
        assert (again.ticket, again.tried, again.retry_of) == (71, ("http://w1",), name)
        assert 99 < again.wait_s <= 100
        fields = dict(answer.headers)
        assert (answer.status, fields[b"x-router-attempt"], fields[b"x-router-queue-ms"]) == (200, b"2", b"10")
        counts = bench.counts()
        assert sum(counts.retries.values()) == 1
        assert {url: (worker.jobs, worker.failures) for url, worker in counts.workers.items()} == {
            "http://w1": (1, 1),
            "http://w2": (1, 0),
        }

    timeless(law())


@pytest.mark.parametrize(
    ("never_ran", "blame", "avoids", "failures", "retries"),
    [
        (fails(Phase.CONNECT), Blame.AWAY, (), 1, {Kind.NOT_SENT: 1}),
        (says(429), Blame.BUSY, (), 0, {Kind.BUSY: 1}),
        (fails(Phase.NO_MEANS), Blame.NONE, ("http://w1",), 0, {}),
    ],
)
def test_job_that_no_worker_ran_keeps_its_place_and_its_attempts(
    never_ran: Response | UpstreamFailed,
    blame: Blame,
    avoids: tuple[str, ...],
    failures: int,
    retries: dict[Kind, int],
) -> None:
    """It asks again with its ticket, and not as a retry, which would cost the fleet's budget."""

    async def law() -> None:
        bench = Bench(Workers(never_ran, says()), {"retry": {"attempts": 1}})
        answer = await bench.run()
        assert bench.leases.ended == [("http://w1", blame, True, ""), ("http://w2", Blame.OK, True, "")]
        _, again = bench.leases.asked
        assert (again.ticket, again.tried, again.retry_of) == (71, avoids, "")
        fields = dict(answer.headers)
        assert (answer.status, fields[b"x-router-attempt"], fields[b"x-router-queue-ms"]) == (200, b"1", b"10")
        counts = bench.counts()
        assert {url: (worker.jobs, worker.failures) for url, worker in counts.workers.items()} == {
            "http://w1": (1, failures),
            "http://w2": (1, 0),
        }
        assert counts.retries == retries

    timeless(law())


@pytest.mark.parametrize("error", [says(500), says(200, SICK)])
def test_error_is_the_worker_s_at_once_if_no_other_worker_is_asked(error: Response) -> None:
    """The report names the job."""

    async def law() -> None:
        bench = Bench(Workers(error), {"retry": {"attempts": 1}})
        await bench.run()
        assert bench.leases.ended == [("http://w1", Blame.ERROR, True, bench.job.name)]
        assert bench.leases.resolved == []

    timeless(law())


def test_job_that_no_worker_runs_is_refused_after_its_wait() -> None:
    """It gets 503 and asks for no further lease."""

    async def law() -> None:
        bench = Bench(Workers(fails(Phase.CONNECT)))
        bench.leases.is_enough = True
        answer = await bench.run()
        assert (answer.status, json.loads(answer.body)["detail"]) == (503, "No healthy workers available")
        assert len(bench.leases.asked) == 1

    timeless(law())


def test_job_gets_all_its_attempts() -> None:
    """Then the client gets each attempt's cause, in order."""

    async def law() -> None:
        bench = Bench(Workers(says(503), fails(Phase.DIED), says(503), says()), {"retry": {"attempts": 3}})
        answer = await bench.run()
        told = json.loads(answer.body)
        assert (answer.status, told["detail"]) == (503, "All workers failed after 3 attempts")
        assert [attempt["worker_url"] for attempt in told["attempts"]] == ["http://w1", "http://w2", "http://w3"]
        assert [asked.tried for asked in bench.leases.asked] == [(), ("http://w1",), ("http://w1", "http://w2")]
        assert [asked.ticket for asked in bench.leases.asked] == [0, 71, 72]
        assert bench.leases.ended[2] == ("http://w3", Blame.FAULT, True, bench.job.name)  # still a suspect

    timeless(law())


@pytest.mark.parametrize(("status", "body"), [(500, b"Oops"), (200, SICK)])
def test_failure_that_all_workers_report_is_the_job_s_own(status: int, body: bytes) -> None:
    """The client gets the last worker's answer."""

    async def law() -> None:
        bench = Bench(Workers(says(status, body), says(status, body), says()))
        answer = await bench.run()
        assert bench.leases.resolved == [(("http://w1", "http://w2"), Blame.NONE, "")]  # so no worker is blamed
        assert (answer.status, answer.body, len(bench.workers.sent)) == (status, body, 2)
        assert answer.outcome is (Outcome.ERROR if status == 500 else Outcome.SANDBOX_ERROR)
        assert dict(answer.headers)[b"x-router-attempt"] == b"2"

    timeless(law())


@pytest.mark.parametrize(
    ("reason", "status", "detail"),
    [
        (NoWorkers(), 503, "No healthy workers available"),
        (QueueFull(), 503, "7 jobs wait already"),
        (TenantFull(), 503, "Too many jobs of tenant default wait already"),
        (
            TooManyPools(),
            503,
            "Waiting jobs need 64 different sets of labels and languages already, and there are at most that many",
        ),
        (NoSuchLabel("gpu"), 503, "No worker has the label gpu"),
        (NoSuchLabel("", "cpp"), 503, "No worker runs the language cpp"),
        (NoSuchLabel("gpu, ib", "cpp"), 503, "No worker has the label gpu, ib and runs the language cpp"),
        (
            TooLarge(4096, 2048),
            422,
            "The job takes 4096 MB of memory; the largest worker that could run it has 2048 MB",
        ),
        (QueueTimeout(), 504, "No worker had room within 30 s"),
        (Quarantined(), 422, "Workers broke down while they ran this job; it is refused for 600 s"),
    ],
)
def test_job_without_a_lease_gets_the_reason(reason: NoRoom, status: int, detail: str) -> None:
    """No worker gets the job, and the refusal is counted once."""

    async def law() -> None:
        settings = {"queue": {"timeout": 30, "max_waiting": 7}, "quarantine_seconds": 600}
        bench = Bench(settings=settings)
        bench.leases.script = [reason]
        answer = await bench.run()
        assert (answer.status, json.loads(answer.body)["detail"]) == (status, detail)
        assert (bench.workers.sent, bench.answered()) == ([], [status])

    timeless(law())


def test_answer_names_the_client_s_deadline_if_that_ended_the_wait() -> None:
    """The queue's longer timeout is not named."""

    async def law() -> None:
        bench = Bench(settings={"queue": {"timeout": 30}}, client_s=5.5)
        bench.leases.script = [QueueTimeout()]
        assert json.loads((await bench.run()).body)["detail"] == "No worker had room within 5 s"

    timeless(law())


def test_retry_beyond_the_budget_ends_with_the_attempts_so_far() -> None:
    """The client gets 503 with the attempt, and the missed retry is counted."""

    async def law() -> None:
        bench = Bench(Workers(says(503)))
        bench.leases.script = [Lease(1, "http://w1", 71, 0), Unfunded()]
        answer = await bench.run()
        detail = "All workers failed after 1 attempt; the fleet's budget for retries is spent"
        assert (answer.status, json.loads(answer.body)["detail"]) == (503, detail)
        assert bench.counts().unfunded == 1

    timeless(law())


def test_failed_job_without_a_worker_left_ends_with_the_attempts_so_far() -> None:
    """Its answer names the failed attempts, not the lack of workers."""

    async def law() -> None:
        bench = Bench(Workers(says(503)))
        bench.leases.script = [Lease(1, "http://w1", 71, 0), NoWorkers()]
        answer = await bench.run()
        assert (answer.outcome, json.loads(answer.body)["detail"]) == (
            Outcome.ALL_FAILED,
            "All workers failed after 1 attempt",
        )

    timeless(law())


def test_job_that_has_tried_all_workers_may_use_any() -> None:
    """Any worker is better than none, and the retry is counted once."""

    async def law() -> None:
        bench = Bench(Workers(says(503), says()), {"queue": {"timeout": 300}})
        bench.leases.script = [Lease(1, "http://w1", 71, 0), Exhausted()]
        assert (await bench.run()).status == 200
        last = bench.leases.asked[2]
        assert (last.tried, last.retry_of, last.ticket) == ((), "", 71)
        assert 99 < last.wait_s <= 100

    timeless(law())


def test_quarantined_job_asks_for_no_lease() -> None:
    """It gets 422, while another job gets a lease."""

    async def law() -> None:
        bench = Bench(Workers(says()))
        known = Bench(Workers(says()), quarantined=frozenset({bench.job.name}))
        assert (await known.run()).status == 422
        assert known.leases.asked == []
        other = Bench(Workers(says()), quarantined=frozenset({"another"}))
        assert (await other.run()).status == 200

    timeless(law())


def test_client_without_time_is_answered_at_once() -> None:
    """No lease is asked for, and the answer comes after `begin` has returned."""

    async def law() -> None:
        bench = Bench(client_s=0.5)
        bench.began()
        assert bench.given == []
        await asyncio.sleep(0)
        (answer,) = bench.given
        assert answer is not None
        assert (answer.status, bench.leases.asked) == (504, [])

    timeless(law())


@pytest.mark.parametrize("client_s", [4.5, 1.0])
def test_deadline_answers_the_client_and_the_attempt_continues(client_s: float) -> None:
    """The lease ends and the body's bytes are released when the worker has answered, and nothing is reported twice."""

    async def law() -> None:
        bench = Bench(client_s=client_s)
        bench.began()
        await asyncio.sleep(client_s - 0.6)
        assert bench.given == []
        await asyncio.sleep(0.2)
        (answer,) = bench.given
        assert answer is not None
        assert (answer.status, json.loads(answer.body)["detail"]) == (504, f"No result within {client_s - 0.5:g} s")
        bench.job.share.give_back()
        assert (bench.leases.ended, bench.buffers.held_bytes) == ([], len(BODY))
        await asyncio.wait_for(bench.dispatcher.finish(), 1)  # a stop does not wait for it
        (deliver,) = bench.workers.held
        rest = Parts()
        deliver(says(rest=rest))
        assert (len(bench.given), bench.buffers.held_bytes, rest.is_closed) == (1, 0, True)
        assert [(url, is_over) for url, _, is_over, _ in bench.leases.ended] == [("http://w1", True)]
        await asyncio.wait_for(bench.dispatcher.finish(), 1)

    timeless(law())


def test_late_attempt_that_fails_is_not_retried() -> None:
    """No client waits for it; the body's bytes are released."""

    async def law() -> None:
        bench = Bench(client_s=4.5)
        bench.began()
        await asyncio.sleep(5)
        bench.job.share.give_back()
        bench.workers.held[0](fails(Phase.DIED))
        await asyncio.sleep(0.1)
        assert (len(bench.leases.asked), len(bench.given), bench.buffers.held_bytes) == (1, 1, 0)
        await asyncio.wait_for(bench.dispatcher.finish(), 1)

    timeless(law())


def test_answer_in_time_stops_the_timer() -> None:
    """At the timer's moment nothing happens, and a stop has nothing to wait for."""

    async def law() -> None:
        bench = Bench(Workers(says()), client_s=4.5)
        bench.began()
        await asyncio.sleep(10)
        assert [answer and answer.status for answer in bench.given] == [200]
        await asyncio.wait_for(bench.dispatcher.finish(), 1)
        assert bench.answered() == [200]

    timeless(law())


def test_timer_of_one_attempt_does_not_fire_in_the_next() -> None:
    """Each attempt has its own timer for the time that is left."""

    async def law() -> None:
        bench = Bench(Workers(says(503)), client_s=4.5)
        bench.began()
        await asyncio.sleep(3)
        assert len(bench.workers.sent) == 2
        await asyncio.sleep(2)
        assert [answer and answer.status for answer in bench.given] == [504]

    timeless(law())


def test_stopping_process_waits_for_attempts_and_retries() -> None:
    """A stopping process also waits between two attempts."""

    async def law() -> None:
        bench = Bench(Workers(says(503)))
        bench.began()
        ending = asyncio.create_task(bench.dispatcher.finish())
        await asyncio.sleep(1)
        assert (len(bench.workers.sent), ending.done()) == (2, False)
        bench.workers.held[0](says())
        await asyncio.wait_for(ending, 1)

    timeless(law())


def test_client_that_hangs_up_between_attempts_gets_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """The job counts as 499, and the failed attempt's lease has ended."""

    async def law() -> None:
        bench = Bench(Workers(says(503), says()), has_left=True)
        with pytest.raises(ClientLeft):
            await bench.run()
        assert (len(bench.leases.asked), len(bench.workers.sent)) == (1, 1)
        ((_, status, _), timing), *others = bench.counts().jobs.items()
        assert (status, timing.count, others) == (CLIENT_LEFT_STATUS, 1, [])
        assert 0 <= timing.total_s < 60

    timeless(law())
    assert [record for record in caplog.records if record.levelname == "ERROR"] == []


def test_job_that_is_cancelled_between_attempts_gets_no_other() -> None:
    """Its bytes are released, and a stopping process waits for that."""

    async def law() -> None:
        bench = Bench()
        running = asyncio.create_task(bench.run())
        await asyncio.sleep(0.1)
        bench.workers.held[0](says(503))
        running.cancel()
        ending = asyncio.create_task(bench.dispatcher.finish())
        await asyncio.wait([running])
        bench.job.share.give_back()
        await asyncio.wait_for(ending, 1)
        assert (len(bench.leases.asked), bench.buffers.held_bytes) == (1, 0)

    timeless(law())


def test_stopping_process_waits_for_a_job_before_its_retry() -> None:
    """It waits although no attempt runs at that moment."""

    async def law() -> None:
        bench = Bench()
        bench.began()
        await asyncio.sleep(0.1)
        bench.workers.held[0](says(503))
        ending = asyncio.create_task(bench.dispatcher.finish())
        await asyncio.sleep(0.5)
        assert (len(bench.workers.held), ending.done()) == (2, False)
        bench.workers.held[1](says())
        await asyncio.wait_for(ending, 1)

    timeless(law())


def test_large_failure_that_all_workers_report_gets_the_router_s_answer() -> None:
    """The workers' large answers are not kept."""

    async def law() -> None:
        bench = Bench(Workers(says(200, SICK, Parts()), says(200, SICK, Parts())))
        answer = await bench.run()
        assert (answer.status, json.loads(answer.body)["detail"]) == (503, "All workers failed after 2 attempts")

    timeless(law())


def test_cancelled_job_gives_up_its_place_or_leaves_its_attempt_running() -> None:
    """A pending job leaves the queue, and a running attempt ends its own lease; both count as a client that left."""

    async def law() -> None:
        bench = Bench()
        bench.leases.script = [None]
        running = asyncio.create_task(bench.run())
        await asyncio.sleep(0.1)
        running.cancel()
        await asyncio.wait([running])
        assert bench.leases.given_up == bench.leases.asked
        assert bench.answered() == [CLIENT_LEFT_STATUS]
        bench = Bench()
        running = asyncio.create_task(bench.run())
        await asyncio.sleep(0.1)
        running.cancel()
        await asyncio.wait([running])
        bench.job.share.give_back()
        assert (bench.leases.given_up, bench.leases.ended, bench.buffers.held_bytes) == ([], [], len(BODY))
        rest = Parts()
        bench.workers.held[0](says(rest=rest))
        assert (len(bench.leases.ended), bench.buffers.held_bytes, rest.is_closed) == (1, 0, True)

    timeless(law())


def test_answer_at_the_moment_of_cancelling_is_not_read_on() -> None:
    """The lease ends, for a large answer and for a small one."""

    async def law() -> None:
        for rest in (Parts(), None):
            bench = Bench()
            running = asyncio.create_task(bench.run())
            await asyncio.sleep(0.1)
            bench.workers.held[0](says(rest=rest))
            running.cancel()
            await asyncio.wait([running])
            assert running.cancelled()
            assert rest is None or rest.is_closed
            assert bench.leases.ended == [("http://w1", Blame.NONE if rest else Blame.OK, True, "")]

    timeless(law())


@pytest.mark.parametrize(
    ("failure", "end"),
    [
        (None, ("http://w1", Blame.OK, True, False)),
        (Phase.DIED, ("http://w1", Blame.DIED, True, True)),
        (Phase.GARBLED, ("http://w1", Blame.FAULT, True, False)),
        (Phase.TIMED_OUT, ("http://w1", Blame.FAULT, False, False)),
    ],
)
def test_lease_of_a_large_answer_ends_with_it(failure: Phase | None, end: tuple[str, Blame, bool, bool]) -> None:
    """It does not end with the answer's beginning, and it ends once, however the answer is closed afterwards."""

    async def law() -> None:
        bench = Bench(Workers(says(rest=Parts(fails(failure) if failure else None))))
        answer = await bench.run()
        assert (bench.leases.ended, answer.rest is not None) == ([], True)
        assert answer.rest is not None
        if failure:
            with pytest.raises(UpstreamFailed):
                await anext(answer.rest)
        else:
            assert [part async for part in answer.rest] == [b"rest"]
        answer.rest.close()
        url, blame, is_over, is_named = end
        assert bench.leases.ended == [(url, blame, is_over, bench.job.name if is_named else "")]
        assert bench.counts().cut_answers == (failure is not None)

    timeless(law())


def test_large_answer_that_is_a_failure_is_not_read_on() -> None:
    """It is closed, its lease ends at once, and the job is retried on another worker."""

    async def law() -> None:
        rest = Parts()
        bench = Bench(Workers(says(503, rest=rest), says()))
        assert (await bench.run()).status == 200
        assert rest.is_closed
        assert [blame for _, blame, _, _ in bench.leases.ended] == [Blame.FAULT, Blame.OK]

    timeless(law())


@pytest.mark.parametrize("step", ["lease", "attempt", "another"])
def test_bug_at_any_step_still_answers_the_client(step: str) -> None:
    """The client gets one 500 instead of waiting for ever."""

    async def law() -> None:
        fault: Any = LookupError("a fault")

        def raises(*_: object, **__: object) -> None:
            raise fault

        bench = Bench(Workers(says(503)))
        parts: Any = bench
        if step == "lease":
            parts.workers.send = raises
        elif step == "attempt":
            bench.leases.fault = fault
        else:
            parts.leases.script = [Lease(1, "http://w1", 71, 0)]
            ask = bench.leases.ask
            parts.leases.ask = lambda *given: raises() if bench.leases.asked else ask(*given)
        answer = await asyncio.wait_for(bench.run(), 5)
        assert answer.status == 500
        assert bench.answered() == [500]

    timeless(law())


def test_job_s_time_counts_from_its_start() -> None:
    """An attempt's time counts from the attempt's start."""

    async def law() -> None:
        bench = Bench()
        since = time.monotonic()
        bench.began()
        await asyncio.sleep(0.1)
        sent_at = time.monotonic()
        while (waited_s := time.monotonic() - sent_at) < 0.02:
            pass
        bench.workers.held[0](says())
        counts = bench.counts()
        took_s = time.monotonic() - since
        assert waited_s <= counts.workers["http://w1"].seconds <= took_s
        assert [waited_s <= timing.total_s <= took_s for timing in counts.jobs.values()] == [True]

    timeless(law())
