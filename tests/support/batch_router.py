"""A router in which only the handler of batches is real: without sockets, workers or clock."""

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from router.aio import Turns
from router.config.load import parse
from router.http.answer import Answer
from router.http.asgi import Message
from router.jobs.batch.handler import BatchHandler
from router.jobs.body_budget import BodyBudget
from router.jobs.handler import ADMISSION
from router.jobs.job import Job, JobRun
from router.jobs.sooner.groups import Groups
from router.policy.verdict import Outcome
from router.scheduling.pending import ClientLeft
from tests.support.jobs import ADMITTED
from tests.support.messages import Sender, at_once

KB = 1024
PATH = "/run_code/batch"
SETTINGS = {"max_body_mb": 1 / KB, "error_status": {"queue_full": 429, "all_failed": 529}}


def echo(job: Job) -> Answer:
    """Answer with the job's body, like a worker that ran it."""
    return Answer(200, b"x-router-attempt: 1\r\n", bytes(job.body), Outcome.RESULT)


class _Hints:
    """Sizes that know what clients say."""

    def expected_ms(self, job: Job) -> int:
        return job.options.expected_ms or 1

    known_ms = expected_ms

    async def look_up(self, jobs: Sequence[Job]) -> None:
        """Find nothing."""


class Router:
    """A handler for batches, whose jobs take the number `s` of seconds in their body."""

    keeps_failures = False

    def __init__(
        self,
        answer: Callable[[Job], Answer] = echo,
        *,
        max_in_flight: int = 8,
        others_hold: int = 0,
        look_ahead_bytes: int = KB,
    ) -> None:
        batch = {"max_in_flight": max_in_flight, "look_ahead_mb": look_ahead_bytes / 2**20}
        settings = parse(json.dumps({**SETTINGS, "batch": batch}), "t")
        self.turns = Turns()
        self.groups = Groups()
        self.jobs: list[Job] = []
        self.counted: list[int] = []  # bytes of each job
        self.refusals: list[tuple[int, str, str]] = []
        self.passed_on: list[Any] = []
        self.state: dict[str, Any] = {ADMISSION: ADMITTED}
        self.buffers = BodyBudget(2 * KB)
        self.buffers.take(others_hold)
        self.sent: list[Message] = []
        self.sent_at: list[float] = []
        self.clock: Callable[[], float] = asyncio.get_running_loop().time
        self.reads = asyncio.Event()  # set while the client reads
        self.reads.set()
        self._answer = answer
        mine: Any = self
        sizes: Any = _Hints()
        self._handler = BatchHandler(mine, self._rest, self.buffers, settings, mine, sizes)

    async def _rest(self, *given: object) -> None:
        self.passed_on.append(given)

    async def run(self, job: Job, begun: Callable[[JobRun], None]) -> Answer:
        """Accept a job, like the dispatcher."""
        del begun
        self.jobs.append(job)
        self.counted.append(job.share.held_bytes)
        leaving = asyncio.create_task(job.has_left())
        has_left, _ = await asyncio.wait([leaving], timeout=json.loads(bytes(job.body)).get("s", 0))
        leaving.cancel()
        if has_left:
            raise ClientLeft
        return self._answer(job)

    def order_of(self, tenant: str) -> str:
        """Return the order of a tenant's jobs, like the dispatcher."""
        return "longest_first" if tenant == "ordered" else "arrival"

    def refused(self, status: int, outcome: Outcome, endpoint: str) -> None:
        """Record the call, like the recorder."""
        self.refusals.append((status, outcome, endpoint))

    async def _send(self, message: Message) -> None:
        await self.reads.wait()
        self.sent.append(message)
        self.sent_at.append(self.clock())

    async def ask(self, *sent: tuple[float, Message], **scope: object) -> None:
        """Handle one request."""
        given = {
            "type": "http",
            "path": PATH,
            "method": "POST",
            "query_string": b"",
            "headers": [],
            "state": self.state,
        }
        await self._handler({**given, **scope}, Sender(*sent), self._send)

    async def ask_counting_turns(self, body: bytes) -> None:
        """Handle a batch; `sent_at` then counts the turns of other tasks instead of the time."""
        turns = 0

        async def look() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        self.clock = lambda: turns
        others = asyncio.create_task(look())
        await self.ask(*at_once(body))
        others.cancel()

    def tell_at(self, at_s: float, event: str) -> None:
        """Set this event of the connection at this second."""

        def tell() -> None:
            self.state[event].set()

        asyncio.get_running_loop().call_at(at_s, tell)

    @property
    def status(self) -> int:
        """The status of the answer."""
        return int(self.sent[0]["status"])

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The lines of the answer, in order."""
        text = b"".join(message["body"] for message in self.sent[1:])
        return [json.loads(line) for line in text.splitlines()]

    @property
    def is_whole(self) -> bool:
        """Whether the answer is complete."""
        return self.sent[-1] == {"type": "http.response.body", "body": b""}
