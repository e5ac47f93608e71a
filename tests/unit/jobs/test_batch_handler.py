"""Batches without sockets or workers: each job, each line, and the ends of client and router."""

import asyncio
import json
from collections.abc import Callable
from typing import Any, Self

import pytest

from router.aio import Turns
from router.auth.access import Admission
from router.config.load import parse
from router.http.answer import RETRY_AFTER_S, Answer
from router.http.asgi import CLIENT_LEFT, STOPPING, Message
from router.http.ndjson import PIECE_BYTES
from router.http.response import Phase, UpstreamFailed
from router.jobs.answers import no_healthy_workers
from router.jobs.batch.handler import BatchHandler
from router.jobs.body_budget import BodyBudget
from router.jobs.handler import ADMISSION
from router.jobs.job import Job, JobRun
from router.policy.verdict import Outcome
from router.scheduling.pending import ClientLeft
from tests.support.jobs import ADMITTED
from tests.support.messages import END, GONE, Sender, at_once, part
from tests.support.timeless import timeless

KB = 1024
PATH = "/run_code/batch"
SETTINGS = {"max_body_mb": 1 / KB, "error_status": {"queue_full": 429, "all_failed": 529}}
BUFFERS_FULL = "0.00195312 MB of request bodies are held already"
STOPPED = "this router process is told to stop"


def echo(job: Job) -> Answer:
    """Answer with the job's body, like a worker that ran it."""
    return Answer(200, b"x-router-attempt: 1\r\n", bytes(job.body), Outcome.RESULT)


class Router:
    """A handler for batches, whose jobs take the number `s` of seconds in their body."""

    def __init__(self, answer: Callable[[Job], Answer] = echo, *, max_in_flight: int = 8, others_hold: int = 0) -> None:
        settings = parse(json.dumps({**SETTINGS, "batch": {"max_in_flight": max_in_flight}}), "t")
        self.turns = Turns()
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
        self._handler = BatchHandler(mine, self._rest, self.buffers, settings, mine)

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


def test_each_job_has_its_batch_s_head() -> None:
    """Only the content type is a single job's."""

    async def main() -> None:
        for query, target in ((b"", b"/run_code"), (b"a=1", b"/run_code?a=1")):
            router = Router()
            router.state[ADMISSION] = Admission([], "me")
            fields = {"content-type": "x", "x-tenant": "y", "x-request-id": "abc", "x-router-deadline-ms": "2500"}
            headers = [(name.encode(), value.encode()) for name, value in fields.items()]
            await router.ask(*at_once(b'{"s":1}\n{}'), query_string=query, headers=headers)
            for index, job in enumerate(router.jobs):
                assert (job.method, job.path, job.target) == (b"POST", "/run_code", target)
                assert (job.request_id, job.client_s, job.admission.key_name) == (b"abc-%d" % index, 2.5, "me")
                assert b"x-tenant: y\r\n" in job.lines
                assert (
                    job.lines.lower().count(b"content-type") == job.lines.count(b"content-type: application/json") == 1
                )
            assert router.sent[0]["headers"] == [(b"content-type", b"application/x-ndjson"), (b"x-request-id", b"abc")]
            assert router.buffers.held_bytes == 0

    timeless(main())


def test_bytes_of_a_job_are_counted_while_it_runs() -> None:
    """A list is counted as a whole, so its jobs are not counted again."""

    async def main() -> None:
        for body, counted in ((b'{"s":1}\n{}', [7, 2]), (b'[{"s":1}, {}]', [0, 0])):
            router = Router()
            await router.ask(*at_once(body))
            assert router.counted == counted
            assert router.buffers.held_bytes == 0

    timeless(main())


def test_request_that_is_no_batch_is_passed_on() -> None:
    """Requests of other paths and other ASGI scopes are passed on unchanged."""

    async def main() -> None:
        router = Router()
        await router.ask(path="/run_code")
        await router.ask(type="lifespan")
        assert [scope["path"] for scope, *_ in router.passed_on] == ["/run_code", PATH]
        assert router.sent == []

    timeless(main())


@pytest.mark.parametrize(
    ("body", "scope", "status", "detail"),
    [
        (b"{}", {"method": "GET"}, 405, "Method Not Allowed"),
        (
            b"{}",
            {"headers": [(b"content-encoding", b"gzip")]},
            415,
            "expected a batch without Content-Encoding, got gzip",
        ),
        (b"{}", {"headers": [(b"x-router-deadline-ms", b"x")]}, 400, "x-router-deadline-ms: expected a whole number"),
        (b"{}", {"headers": [(b"x-router-labels", b"a b")]}, 400, "x-router-labels: expected names with commas"),
        (b"[{}", {}, 422, "expected a JSON list: "),
        (b"[%s]" % (b" " * 200), {}, 429, BUFFERS_FULL),
    ],
)
def test_batch_that_cannot_be_run_is_refused_and_counted(
    body: bytes, scope: dict[str, Any], status: int, detail: str
) -> None:
    """The refusal is the complete answer."""

    async def main() -> None:
        router = Router(others_hold=2 * KB - 100)
        await router.ask(*at_once(body), **scope)
        text = json.loads(router.sent[1]["body"])["detail"]
        assert (router.status, text[: len(detail)], router.jobs) == (status, detail, [])
        assert ((b"allow", b"POST") in router.sent[0]["headers"]) == (status == 405)
        assert [(told, path) for told, _, path in router.refusals] == [(status, PATH)]

    timeless(main())


def test_batch_with_an_encoding_that_changes_nothing_is_run() -> None:
    """The encoding's spelling does not matter."""

    async def main() -> None:
        router = Router()
        await router.ask(*at_once(b"{}"), headers=[(b"content-encoding", b"Identity")])
        assert (router.status, len(router.lines), router.is_whole, router.refusals) == (200, 1, True, [])

    timeless(main())


@pytest.mark.parametrize("event", [STOPPING, CLIENT_LEFT, ""])
def test_batch_before_its_first_job_ends_with_its_router_or_client(
    event: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A stopping router answers 503 and logs the key's name; a client that left counts as no refusal."""

    async def main() -> None:
        router = Router()
        router.state[ADMISSION] = Admission([], "me")
        if event:
            router.tell_at(1, event)
        await router.ask((2, part(b"{}\n") if event else GONE), (3, GONE), headers=[(b"x-request-id", b"abc")])
        assert router.jobs == []
        if event == STOPPING:
            assert json.loads(router.sent[1]["body"])["detail"] == f"Nothing has begun: {STOPPED}"
            assert [(told, path) for told, _, path in router.refusals] == [(503, PATH)]
            (record,) = caplog.records
            assert (record.__dict__["request_id"], record.__dict__["key_name"]) == ("abc", "me")
        else:
            assert not [message for message in router.sent if message.get("body")]
            assert not router.refusals

    timeless(main())


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (echo, {"status": 200, "body": {}}),
        (lambda _: Answer(404, b"", b"no\nsuch", Outcome.RESULT), {"status": 404, "body": "no\nsuch"}),
        (
            lambda _: no_healthy_workers(503, b""),
            {"status": 503, "retry_after": 1, "body": {"detail": "No healthy workers available"}},
        ),
        (
            lambda _: Answer(200, b"content-encoding: gzip\r\n", b"\x1f", Outcome.RESULT),
            {"status": 502, "body": {"detail": "The worker's answer is compressed, which no line can hold"}},
        ),
    ],
)
def test_line_has_what_a_single_job_would_get(answer: Callable[[Job], Answer], line: dict[str, Any]) -> None:
    """A line has the status, retry_after, and the body as JSON."""

    async def main() -> None:
        router = Router(answer)
        await router.ask(*at_once(b"{}"))
        assert (router.lines, router.is_whole) == ([{"index": 0, **line}], True)

    timeless(main())


def test_line_that_is_no_job_is_counted_and_answered_in_its_place() -> None:
    """Thousands of such lines still let other tasks run."""

    async def main() -> None:
        router = Router(others_hold=2 * KB - 10)
        await router.ask_counting_turns(b"5\n" * 300)
        assert [line["index"] for line in router.lines] == list(range(300))
        assert router.refusals == [(422, Outcome.BAD_REQUEST, "/run_code")] * 300
        assert router.sent_at[-1] >= 299
        assert asyncio.get_running_loop().time() == 0

    timeless(main())


def test_job_without_room_is_refused_and_the_next_is_delayed(caplog: pytest.LogCaptureFixture) -> None:
    """There may be room a moment later; the log has the line of a failed job."""

    async def main() -> None:
        full = Router(others_hold=2 * KB - 10)
        await full.ask(*at_once(b'{"code": 1}\n{}\n'), headers=[(b"x-request-id", b"abc")])
        assert [(line["index"], line["status"]) for line in full.lines] == [(0, 429), (1, 200)]
        assert full.lines[0]["body"]["detail"] == BUFFERS_FULL
        assert full.refusals == [(429, Outcome.BUFFERS_FULL, "/run_code")]
        assert full.sent_at == [0, 0, RETRY_AFTER_S, RETRY_AFTER_S]
        assert [message.partition(", ")[0] for message in caplog.messages] == ["Job abc-0 failed: 429 buffers_full"]

    timeless(main())


def test_job_without_a_worker_keeps_its_place_for_a_moment() -> None:
    """Otherwise a short outage would fail a whole batch."""

    async def main() -> None:
        vain = Router(lambda _: no_healthy_workers(503, b""), max_in_flight=1)
        await vain.ask(*at_once(b"{}\n{}"))
        assert vain.sent_at == [0, 0, RETRY_AFTER_S, 2 * RETRY_AFTER_S]

    timeless(main())


class Rest:
    """The rest of a large answer: one part a second, with a given end."""

    def __init__(self, *parts: bytes | Exception) -> None:
        self.left = list(parts)
        self.is_closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next part."""
        await asyncio.sleep(1)
        if not self.left:
            raise StopAsyncIteration
        found = self.left.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """Record the call."""
        self.is_closed = True


DIED = UpstreamFailed("http://w", Phase.DIED, "died")


@pytest.mark.parametrize(
    ("parts", "others_hold", "status", "told"),
    [
        ([b"x" * 1000, b"x" * 22 + b'"'], 0, 200, "x" * 1022),
        ([b"x" * 1000, b"x" * 23 + b'"'], 0, 413, "The answer is larger than 0.000976562 MB: send its job by itself"),
        ([b"x", b"x" * 995], 2 * KB - 1000, 429, BUFFERS_FULL),
        ([b"x", DIED], 0, 529, "Worker http://w died"),
    ],
)
def test_large_answer_is_a_whole_line_or_an_error(
    parts: list[bytes | Exception], others_hold: int, status: int, told: str
) -> None:
    """It is held only until it is complete, and the next one is read after it."""

    async def main() -> None:
        rests = [Rest(*parts), Rest(b'"')]

        def large(job: Job) -> Answer:
            return Answer(200, b"x-router-attempt: 1\r\n", b'"', Outcome.RESULT, rests[int(job.request_id[-1:])])

        router = Router(large, others_hold=others_hold)
        await router.ask(*at_once(b"{}\n{}"))
        first, second = router.lines
        assert (first["index"], first["status"]) == (0, status)
        assert (first["body"] if status == 200 else first["body"]["detail"]) == told
        assert (second["index"], second["body"]) == (1, "")
        assert all(rest.is_closed for rest in rests)
        assert router.buffers.held_bytes == others_hold
        held_s = len(parts) + (status == 200)
        assert router.sent_at[1:3] == [held_s, held_s + 2]

    timeless(main())


def test_large_answer_is_written_in_pieces() -> None:
    """No piece is larger than PIECE_BYTES, and other tasks run between two pieces."""

    async def main() -> None:
        text = b'{"a":"%s"}' % (b"x" * 2**20)
        router = Router(lambda _: Answer(200, b"x-router-attempt: 1\r\n", text, Outcome.RESULT))
        await router.ask_counting_turns(b"{}")
        assert len(set(router.sent_at[1:-2])) == len(router.sent_at[1:-2])
        assert all(message["more_body"] for message in router.sent[1:-1])
        sizes = [len(message["body"]) for message in router.sent[1:-1]]
        assert max(sizes) <= PIECE_BYTES
        assert len(sizes) <= 6
        assert router.lines[0]["body"] == json.loads(text)

    timeless(main())


@pytest.mark.parametrize(
    ("size", "max_in_flight", "at_s"),
    [(20, 2, [1, 1, 2]), (20, 3, [1, 1, 1]), (400, 3, [1, 1, 2]), (600, 3, [1, 2, 3])],
)
def test_jobs_start_when_others_end(size: int, max_in_flight: int, at_s: list[float]) -> None:
    """At most max_in_flight jobs run, with at most one body's bytes together."""

    async def main() -> None:
        router = Router(max_in_flight=max_in_flight)
        job = b'{"s":1,"code":"%s"}' % (b"x" * (size - 17))
        await router.ask(*at_once(b"\n".join([job] * 3)))
        assert router.sent_at == [0, *at_s, at_s[-1]]

    timeless(main())


def test_no_job_starts_for_a_client_that_does_not_read() -> None:
    """A job counts as running until its line is written."""

    async def main() -> None:
        router = Router(max_in_flight=2)
        loop = asyncio.get_running_loop()
        loop.call_at(0.5, router.reads.clear)
        loop.call_at(7, lambda: router.counted.append(-1))
        loop.call_at(8, router.reads.set)
        await router.ask(*at_once(b'{"s":1}\n' * 3))
        assert router.counted == [7, 7, -1, 7]
        assert router.sent_at == [0, 8, 8, 9, 9]

    timeless(main())


@pytest.mark.parametrize(
    ("sent", "left_s", "cut_s"),
    [
        ([(0, part(b'{"s":5}\n{"s":')), (2, GONE)], None, 2),
        ([*at_once(b'{"s":5}\n{"s":5}'), (2, part(b"")), (3, GONE)], None, 3),
        ([(0, part(b'{"s":5}\n{"s":5}\n{"s":5}\n{"s":5}\n')), (9, END)], 4, 4),
    ],
)
def test_client_that_leaves_starts_no_more_jobs(
    sent: list[tuple[float, Message]], left_s: float | None, cut_s: float, caplog: pytest.LogCaptureFixture
) -> None:
    """Its jobs notice, nothing more is written, and the log has one line."""
    caplog.set_level("INFO")

    async def main() -> None:
        router = Router(max_in_flight=2)
        loop = asyncio.get_running_loop()
        if left_s is not None:
            router.tell_at(left_s, CLIENT_LEFT)
        await router.ask(*sent, headers=[(b"x-request-id", b"abc")])
        assert loop.time() == cut_s
        assert not [message for message in router.sent if message.get("body")]
        assert router.is_whole == ((0.0, END) in sent)  # only as much as was asked for
        assert router.buffers.held_bytes == 0

    timeless(main())
    (told,) = caplog.messages
    assert told in [f"Cut a batch short after {count} jobs: its client has left (abc)" for count in (1, 2, 3)]


@pytest.mark.parametrize(("body", "begun"), [(b'{"s":5}\n', 1), (b'{"s":5}\n' * 4, 2)])
def test_stopping_router_finishes_started_jobs_only(body: bytes, begun: int, caplog: pytest.LogCaptureFixture) -> None:
    """It starts no further jobs, leaves the answer without its end, and logs how many jobs it did."""
    caplog.set_level("INFO")

    async def main() -> None:
        router = Router(max_in_flight=2)
        router.tell_at(1, STOPPING)
        await router.ask((0, part(body)), (2, part(b"{}\n")), headers=[(b"x-request-id", b"abc")])
        assert (len(router.jobs), len(router.lines), router.is_whole) == (begun, begun, False)
        assert router.buffers.held_bytes == 0

    timeless(main())
    (told,) = caplog.messages
    assert told.endswith(f" jobs: {STOPPED} (abc)")


def test_no_line_is_written_for_a_client_that_has_left() -> None:
    """Neither the rest of its body nor its workers' answers are read."""

    async def main() -> None:
        unfit = Router()
        unfit.reads.clear()
        loop = asyncio.get_running_loop()
        loop.call_at(1, unfit.reads.set)
        loop.call_at(1.5, unfit.reads.clear)
        unfit.tell_at(2, CLIENT_LEFT)
        loop.call_at(3, unfit.reads.set)
        await unfit.ask((0, part(b"5\n")), (1.7, part(b"6\n7\n8\n")), (4, GONE))
        assert len(unfit.refusals) == 2

        rest = Rest(b"x", b"y", b"z", b'"')
        large = Router(lambda _: Answer(200, b"x-router-attempt: 1\r\n", b'"', Outcome.RESULT, rest))
        large.tell_at(loop.time() + 1.5, CLIENT_LEFT)
        await large.ask(*at_once(b"{}"))
        assert (rest.left, rest.is_closed) == ([b"z", b'"'], True)

    timeless(main())


def test_batch_that_stops_sending_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    """The batch limits its client's time once the answer has begun; before, the connection does."""
    caplog.set_level("INFO")

    async def main() -> None:
        router = Router()
        await router.ask((100, part(b"{}\n")), headers=[(b"x-request-id", b"abc")])
        assert (asyncio.get_running_loop().time(), len(router.lines), router.is_whole) == (130, 1, False)

    timeless(main())
    assert caplog.messages == ["Cut a batch short after 1 jobs: nothing came for 30 s (abc)"]


def test_client_that_leaves_with_its_whole_answer_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """After the complete answer no task watches the client."""
    caplog.set_level("INFO")

    async def main() -> None:
        router = Router()
        await router.ask(*at_once(b"{}\n"), (5, GONE))
        await asyncio.sleep(10)
        assert router.is_whole

    timeless(main())
    assert caplog.messages == []
