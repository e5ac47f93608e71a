"""The calls of a job's hooks, and the headers that its workers get."""

from collections.abc import Callable

import msgspec
import pytest

from router.http.response import Phase, Response, UpstreamFailed
from router.jobs.job import Job
from router.jobs.job_log import CLIENT_LEFT_STATUS
from router.policy.verdict import Kind, Outcome
from router.scheduling.pending import ClientLeft, QueueFull
from router.upstream.pool import Request
from tests.support.timeless import timeless
from tests.unit.jobs.test_dispatcher import Bench, Workers, fails, says


class Hooks:
    """Records the calls of one job's hooks; the hook `fault_in` raises an error that no code expects."""

    def __init__(self, told: list[object], job: Job, fault_in: str = "") -> None:
        self.lines = b"span: job\r\n" + job.lines
        self._told = told
        self._fault_in = fault_in

    def attempt_begins(self, worker_url: str, request: Request) -> Request:
        """Give the attempt its own header."""
        self._note("attempt_begins", worker_url)
        return msgspec.structs.replace(request, headers=request.headers.replace(b"span: job", b"span: attempt"))

    def attempt_ends(self, worker_url: str, outcome: Response | UpstreamFailed, kind: Kind) -> None:
        """Record the call."""
        del worker_url
        self._note("attempt_ends", "no answer" if isinstance(outcome, UpstreamFailed) else outcome.head.status, kind)

    def job_ends(self, status: int, outcome: Outcome, pool: str) -> None:
        """Record the call."""
        del pool
        self._note("job_ends", status, outcome)

    def _note(self, hook: str, *facts: object) -> None:
        if hook == self._fault_in:
            raise LookupError(hook)
        self._told.append((hook, *facts))


def bench(told: list[object], *script: Response | UpstreamFailed, fault_in: str = "") -> Bench:
    """Return a dispatcher with these hooks."""
    made = Bench(Workers(*script))
    hooks_of: Callable[[Job], Hooks] = lambda job: Hooks(told, job, fault_in)  # noqa: E731
    made.dispatcher._preparer._hooks_of = hooks_of
    return made


def test_hooks_are_called_for_each_attempt_and_the_answer() -> None:
    """The calls are in order, and each attempt sends the request that its hook returned."""

    async def law() -> None:
        told: list[object] = []
        made = bench(told, fails(Phase.DIED), says(503), says())
        assert (await made.run()).status == 200
        assert told == [
            ("attempt_begins", "http://w1"),
            ("attempt_ends", "no answer", Kind.DIED),
            ("attempt_begins", "http://w2"),
            ("attempt_ends", 503, Kind.FAULT),
            ("attempt_begins", "http://w3"),
            ("attempt_ends", 200, Kind.RESULT),
            ("job_ends", 200, Outcome.RESULT),
        ]
        assert all(
            request.headers.startswith(b"span: attempt\r\nx: y\r\n") and b"span: job" not in request.headers
            for _, request, _ in made.workers.sent
        )

    timeless(law())


def test_hooks_are_called_for_a_job_without_an_attempt() -> None:
    """A refusal, or a client that leaves a pending job, causes exactly one call."""

    async def law() -> None:
        for reason, end in (
            (QueueFull(), ("job_ends", 503, Outcome.QUEUE_FULL)),
            (ClientLeft(), ("job_ends", CLIENT_LEFT_STATUS, Outcome.CLIENT_LEFT)),
        ):
            told: list[object] = []
            made = bench(told)
            made.leases.script = [reason]
            if isinstance(reason, ClientLeft):
                with pytest.raises(ClientLeft):
                    await made.run()
            else:
                await made.run()
            assert told == [end]

    timeless(law())


@pytest.mark.parametrize(("hook", "status"), [("attempt_begins", 500), ("attempt_ends", 500), ("job_ends", 200)])
def test_hook_that_fails_costs_no_client_its_answer(hook: str, status: int) -> None:
    """It is handled like any other bug of the router, and nothing stays held."""

    async def law() -> None:
        made = bench([], says(), fault_in=hook)
        assert (await made.run()).status == status
        assert not made.dispatcher._unanswered
        assert made.dispatcher._attempts == 0

    timeless(law())
