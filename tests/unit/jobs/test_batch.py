"""Batches over real sockets: the application in this process, scripted workers, no Redis."""

import asyncio
import json
import socket
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from router.composition import create_app
from router.config.load import parse
from tests.support.eventually import eventually
from tests.support.load import post_job
from tests.support.serving import served
from tests.support.worker import RESULT, Exchange, Gate, ScriptedWorker

MB = 2**20
JOB = b'{"code": "%d"}'


@asynccontextmanager
async def routed(*workers: ScriptedWorker, **settings: object) -> AsyncIterator[str]:
    """A router before these workers; yields the URL for batches."""
    given = {
        "workers": [worker.url for worker in workers],
        "redis": {"url": "redis://127.0.0.1:1/0"},
        "max_body_mb": 1,
        "timeout": 10,
        **settings,
    }
    async with served(create_app(parse(json.dumps(given), "t"))) as address:
        yield f"{address}/run_code/batch"


async def post(url: str, body: Any, **headers: str) -> tuple[int, list[dict[str, Any]]]:
    """Send a batch; return the status, and the lines by index."""
    async with aiohttp.ClientSession() as session, session.post(url, data=body, headers=headers) as response:
        assert response.status != 200 or response.content_type == "application/x-ndjson"
        lines = [json.loads(line) for line in (await response.read()).splitlines()]
        return response.status, sorted(lines, key=lambda line: line.get("index", 0))


async def echo(exchange: Exchange) -> None:
    """Answer with the job's own code."""
    await exchange.answer(200, {**RESULT, "message": json.loads(exchange.request.body)["code"]})


@pytest.mark.parametrize("form", ["lines", "lines without a last end", "list", "list on many lines", "chunks"])
async def test_each_job_has_its_answer_on_a_line_of_its_own(worker: ScriptedWorker, form: str) -> None:
    """Each form of a batch works; each answer is what /run_code answers, with its metadata."""
    worker.script = echo
    jobs = [{"code": f"print({number})\n"} for number in range(100)]
    lines = "\r\n\n".join(json.dumps(job) for job in jobs) + "\n"

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(lines), 7):
            yield lines[start : start + 7].encode()

    body: Any = {
        "lines": lines,
        "lines without a last end": lines.rstrip(),
        "list": json.dumps(jobs),
        "list on many lines": "\n" + json.dumps(jobs, indent=2),
        "chunks": chunks(),
    }[form]
    async with routed(worker) as url:
        status, answers = await post(url, body)
    assert status == 200
    assert [(line["index"], line["status"]) for line in answers] == [(index, 200) for index in range(100)]
    assert [line["body"]["message"] for line in answers] == [job["code"] for job in jobs]
    assert answers[0]["body"]["router_metadata"]["worker_url"] == worker.url
    assert worker.most_at_once <= 64


@pytest.mark.parametrize("body", [b"", b" [ ] "])
async def test_empty_batch_has_an_empty_answer(worker: ScriptedWorker, body: bytes) -> None:
    """Without jobs there are no lines and no error."""
    async with routed(worker) as url:
        assert await post(url, body) == (200, [])


async def test_job_gets_its_batch_s_headers_and_an_id_of_its_own(worker: ScriptedWorker) -> None:
    """A job gets the batch's headers and query; only its content type is a single job's."""
    async with routed(worker) as url:
        kinds = {"content-type": "application/x-ndjson", "x-tenant": "me", "x-request-id": "abc"}
        await post(f"{url}?debug=1", b'{"code": "a"}\n{"code": "b"}\n', **kinds)
    got = {job.headers["x-request-id"]: job for job in worker.jobs}
    assert sorted(got) == ["abc-0", "abc-1"]
    for job in worker.jobs:
        assert job.target == "/run_code?debug=1"
        assert (job.headers["content-type"], job.headers["x-tenant"]) == ("application/json", "me")
        assert "transfer-encoding" not in job.headers


async def test_bad_line_gets_an_error_and_the_others_run(worker: ScriptedWorker) -> None:
    """A line that is not JSON, not an object or too long gets an error with its number."""
    lines = [b'{"code": 1}', b"", b"{", b"[1]", b'{"code": "%s"}' % (b"x" * MB), b'{"code": 2}', b"5", b'{"code": 3']
    async with routed(worker) as url:
        _, answers = await post(url, b"\n".join(lines))
    told = [(line["index"], line["status"], line["body"].get("detail")) for line in answers]
    malformed = "expected a JSON object: Input data was truncated"
    assert told == [
        (0, 200, None),
        (1, 422, f"Line 3: {malformed}"),
        (2, 422, "Line 4: expected a JSON object"),
        (3, 413, "Line 5 is larger than 1 MB"),
        (4, 200, None),
        (5, 422, "Line 7: expected a JSON object"),
        (6, 422, f"Line 8: {malformed}"),
    ]
    assert len(worker.jobs) == 2


@pytest.mark.parametrize(
    ("body", "headers", "status", "detail"),
    [
        (b"[{}, {}", {}, 422, "expected a JSON list: Input data was truncated"),
        (b"[{}] x", {}, 422, "expected a JSON list: JSON is malformed: trailing characters (byte 6)"),
        (b"[%s]" % (b" " * MB), {}, 413, "The list is larger than 1 MB; one job a line (NDJSON) may be any number"),
        (b"{}", {"content-encoding": "gzip"}, 415, "expected a batch without Content-Encoding, got gzip"),
        (b"{}", {"x-router-deadline-ms": "x"}, 400, "x-router-deadline-ms: expected a whole number of milliseconds"),
    ],
)
async def test_batch_that_cannot_be_run_is_refused_as_a_whole(
    worker: ScriptedWorker, body: bytes, headers: dict[str, str], status: int, detail: str
) -> None:
    """A refused batch gets a status and a reason before any job starts."""
    async with routed(worker) as url:
        got, answers = await post(url, body, **headers)
    assert (got, answers[0]["detail"][: len(detail)]) == (status, detail)
    assert not worker.jobs


async def test_other_methods_are_refused(worker: ScriptedWorker) -> None:
    """Other methods get 405 with the allowed method."""
    async with routed(worker) as url, aiohttp.ClientSession() as session, session.get(url) as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")


async def test_failed_jobs_have_their_errors_and_statuses(worker: ScriptedWorker) -> None:
    """A line has what a single job would get: the worker's 4xx, all attempts' causes, or text that is not JSON."""

    async def by_code(exchange: Exchange) -> None:
        match json.loads(exchange.request.body)["code"]:
            case "422":
                await exchange.answer(422, {"detail": "bad\nfield"})
            case "die":
                exchange.reset()
            case "text":
                await exchange.answer(404, b"no\nsuch page")
            case "pretty":
                await exchange.answer(200, b'{\r\n  "status": "Success"\r\n}\n')
            case "packed":
                await exchange.answer(200, b"\x1f\x8b\n", "content-encoding: gzip")
            case _:
                await exchange.answer()

    worker.script = by_code
    codes = ["422", "text", "pretty", "packed", "die", "good"]
    async with routed(worker, retry={"attempts": 1}) as url:
        _, answers = await post(url, "\n".join(json.dumps({"code": code}) for code in codes))
    assert [line["status"] for line in answers] == [422, 404, 200, 502, 503, 200]
    assert answers[0]["body"]["detail"] == "bad\nfield"
    assert answers[1]["body"] == "no\nsuch page"
    assert answers[2]["body"]["status"] == "Success"
    assert answers[4]["body"]["attempts"][0]["cause"] == "closed the connection without an answer"


async def test_deadline_counts_from_each_job_s_start(worker: ScriptedWorker) -> None:
    """The deadline counts from the start of the job, not of the batch."""

    async def slow(exchange: Exchange) -> None:
        await asyncio.sleep(5 if b"slow" in exchange.request.body else 0.05)
        await exchange.answer()

    worker.script = slow
    jobs = [b'{"code": "slow"}', *([b"{}"] * 15)]
    async with routed(worker, batch={"max_in_flight": 1}) as url:
        _, answers = await post(url, b"\n".join(jobs), **{"x-router-deadline-ms": "1000"})
    assert Counter(line["status"] for line in answers) == {200: 15, 504: 1}
    assert answers[0]["body"] == {"detail": "No result within 0.5 s"}


async def test_short_outage_does_not_fail_a_whole_batch() -> None:
    """A job without a worker keeps its place for a second, so that the next jobs find a worker."""
    async with ScriptedWorker() as worker, routed(batch={"max_in_flight": 2}, queue={"without_workers": 0}) as url:
        start = asyncio.get_running_loop().time()
        _, answers = await post(url, b"{}\n" * 6)
        assert asyncio.get_running_loop().time() - start > 2
        assert not worker.jobs
    assert [line["body"]["detail"] for line in answers] == ["No healthy workers available"] * 6


# Large answers


def large(mb: int, then: str = "") -> bytes:
    """Return the code of a job whose answer has this size and ending."""
    return json.dumps({"code": f"{mb} {then}"}).encode()


async def send_large(exchange: Exchange) -> None:
    """Answer with the number of MB in the code, and die then if the code says so."""
    mb, _, then = json.loads(exchange.request.body)["code"].partition(" ")
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    await exchange.raw(head + b'f\r\n{\n"status": "S", \r\n'.replace(b"f\r\n", b"11\r\n", 1))
    await exchange.raw(b'c\r\n"stdout": "x\r\n')
    for _ in range(int(mb) * 16):
        await exchange.raw(b"10000\r\n" + b"x" * 2**16 + b"\r\n")
    if then:
        exchange.close()
    else:
        await exchange.raw(b'2\r\n"}\r\n0\r\n\r\n')


async def test_large_answers_are_whole_lines_or_errors(worker: ScriptedWorker) -> None:
    """A worker that dies in its answer, or an answer that is too large, costs only its own job."""
    worker.script = send_large
    jobs = [large(3), large(3, "die"), large(5), large(0), large(2)]
    async with routed(worker, max_body_mb=4) as url:
        _, answers = await post(url, b"\n".join(jobs))
    assert [line["status"] for line in answers] == [200, 503, 413, 200, 200]
    assert [len(line["body"].get("stdout", "")) for line in answers] == [3 * MB + 1, 0, 0, 1, 2 * MB + 1]
    assert answers[0]["body"]["router_metadata"]["worker_url"] == worker.url
    assert answers[1]["body"]["detail"] == f"Worker {worker.url} closed the connection in mid-answer"
    assert answers[2]["body"]["detail"] == "The answer is larger than 4 MB: send its job by itself"


# Limits


class Pull:
    """A client that sends one job at a time, when the test tells it to."""

    def __init__(self) -> None:
        self._lines: asyncio.Queue[bytes] = asyncio.Queue()

    def send(self, text: bytes) -> None:
        """Send these bytes; b"" ends the body."""
        self._lines.put_nowait(text)

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the bytes of `send`."""
        while text := await self._lines.get():
            yield text


async def test_no_more_jobs_run_than_max_in_flight(worker: ScriptedWorker) -> None:
    """The next job starts when one ends."""
    gate = Gate()
    worker.script = gate
    async with routed(worker, batch={"max_in_flight": 3}) as url:
        posted = asyncio.create_task(post(url, b"{}\n" * 50))
        await eventually(lambda: worker.running == 3, what="three jobs")
        gate.open()
        _, answers = await posted
    assert len(answers) == 50
    assert worker.most_at_once == 3


async def test_running_jobs_have_at_most_max_body_mb_together(worker: ScriptedWorker) -> None:
    """With 1 MB two of three jobs of 400 kB run at a time, and a last line of 1 MB runs alone."""
    gate = Gate()
    worker.script = gate
    job = b'{"code": "%s"}' % (b"x" * 400_000)
    whole = b'{"code": "%s"}' % (b"x" * (MB - 20))
    async with routed(worker, max_buffered_mb=1) as url:
        posted = asyncio.create_task(post(url, b"\n".join([job, job, job, b"{}", whole])))
        await eventually(lambda: worker.running == 2, what="two jobs")
        gate.open()
        _, answers = await posted
    assert [line["status"] for line in answers] == [200] * 5
    assert worker.most_at_once == 2


async def test_line_without_room_for_its_bytes_gets_503(worker: ScriptedWorker) -> None:
    """The line is refused instead of waiting, because the wait might never end; the next line is tried."""
    gate = Gate()
    worker.script = gate
    job = b'{"code": "%s"}' % (b"x" * 700_000)
    async with routed(worker, max_buffered_mb=1) as url, aiohttp.ClientSession() as session:
        single = asyncio.create_task(session.post(url.removesuffix("/batch"), data=job))
        await eventually(lambda: worker.running == 1, what="a job that holds most")
        asyncio.get_running_loop().call_later(0.5, gate.open)
        _, answers = await post(url, b"\n".join([job, b"{}"]))
        _, listed = await post(url, b"[%s]" % job)
        assert (await single).status == 200
    assert [line["status"] for line in answers] == [503, 200]
    assert answers[0]["body"]["detail"] == "Line 1: 1 MB of request bodies are held already"
    assert [line["status"] for line in listed] == [200]


async def test_client_that_leaves_starts_no_more_jobs(worker: ScriptedWorker) -> None:
    """Running jobs end; pending jobs and later ones never run."""
    gate = Gate()
    worker.script = gate
    workers = [{"url": worker.url, "max_concurrency": 2}]
    async with routed(worker, workers=workers, batch={"max_in_flight": 5}) as url:
        posted = asyncio.create_task(post(url, b"{}\n" * 2000))
        await eventually(lambda: worker.running == 2, what="two jobs")
        posted.cancel()
        await asyncio.gather(posted, return_exceptions=True)
        # The batch reads nothing while its job waits for room, so only its check of the connection finds it closed.
        await asyncio.sleep(0.1)
        gate.open()
        await eventually(lambda: worker.running == 0, what="the jobs' end")
        other = {"code": "not one that the client has left"}
        async with aiohttp.ClientSession() as session, session.post(url.removesuffix("/batch"), json=other) as response:
            assert response.status == 200
        assert len(worker.jobs) == 3


@pytest.mark.parametrize("count", [200, 100_000])
async def test_client_that_leaves_is_noticed_while_all_its_jobs_are_pending(worker: ScriptedWorker, count: int) -> None:
    """The connection is checked from time to time, even if more of the body has arrived than was read."""
    gate = Gate()
    worker.script = gate
    workers = [{"url": worker.url, "max_concurrency": 1}]
    async with routed(worker, workers=workers, batch={"max_in_flight": 5}, client_read_timeout=1) as url:
        single = asyncio.create_task(post_job(url.removesuffix("/run_code/batch")))
        await eventually(lambda: worker.running == 1, what="the worker's only slot")
        sock = socket.create_connection(("127.0.0.1", int(url.split(":")[2].partition("/")[0])))
        sock.setblocking(False)
        head = b"POST /run_code/batch HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (3 * count)
        sock.send(head + b"{}\n" * count)
        await asyncio.sleep(0.2)  # it has read as much as it wants
        # The end of a process drops its unsent data; a mere close would wait until it is sent.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        await asyncio.sleep(0.5)
        gate.open()
        assert (await single).status == 200
        assert (await post_job(url.removesuffix("/run_code/batch"))).status == 200
    assert len(worker.jobs) == 2


async def test_line_with_a_temporary_failure_has_retry_after() -> None:
    """A line has no header fields, so its `retry_after` replaces Retry-After."""
    async with routed(queue={"timeout": 0.2}) as url:
        status, (line, unfit) = await post(url, b"{}\n7\n")
    assert (status, line["status"], line["retry_after"]) == (200, 503, 1)
    assert (unfit["status"], "retry_after" in unfit) == (422, False)


# Time


async def test_client_may_wait_for_its_jobs_and_send_more_later(worker: ScriptedWorker) -> None:
    """While jobs of it run, a client may be silent and need not read."""
    gate, pull = Gate(), Pull()
    worker.script = gate
    async with routed(worker, client_body_timeout=0.6, client_read_timeout=0.6) as url:
        posted = asyncio.create_task(post(url, pull.body()))
        pull.send(b"{}\n")
        await eventually(lambda: worker.running == 1, what="a job")
        await asyncio.sleep(1.5)
        pull.send(b"{}\n{")
        await eventually(lambda: worker.running == 2, what="another job")
        gate.open()
        await asyncio.sleep(0.2)
        pull.send(b"}")
        await asyncio.sleep(0.2)
        pull.send(b"")
        status, answers = await posted
    assert (status, [line["status"] for line in answers]) == (200, [200] * 3)


async def test_client_that_stops_sending_is_cut(worker: ScriptedWorker, caplog: pytest.LogCaptureFixture) -> None:
    """After client_body_timeout without a running job the answer is left without its end."""
    pull = Pull()
    with caplog.at_level("INFO"):
        async with routed(worker, client_body_timeout=0.4) as url:
            pull.send(b"{}\n{")
            async with aiohttp.ClientSession() as session, session.post(url, data=pull.body()) as response:
                assert (await response.content.readline()).startswith(b'{"index":0,"status":200')
                name = response.headers["x-request-id"]
                with pytest.raises(aiohttp.ClientError):
                    await response.content.read()
    assert f"Cut a batch short after 1 jobs: nothing came for 0.4 s ({name})" in caplog.text


async def test_first_line_has_the_time_limit_of_a_body(worker: ScriptedWorker) -> None:
    """Before the first line the client has no answer, so a slow one gets 408."""
    pull = Pull()
    async with routed(worker, client_body_timeout=0.4) as url:
        pull.send(b"{")
        status, answers = await post(url, pull.body())
    assert (status, answers[0]["detail"][:21]) == (408, "No whole request body")
