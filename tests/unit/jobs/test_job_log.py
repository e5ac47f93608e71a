"""A failed job has one line in the log with everything known about it; real sockets, no Redis."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from router.auth.access import Access
from router.composition import create_app
from router.config.load import parse
from tests.support.eventually import eventually
from tests.support.faults import close_at_once
from tests.support.serving import served
from tests.support.worker import Exchange, Gate, Script, ScriptedWorker, always, hang, well

ID = "job-abc-42"
CODE = "print('very secret code')"
JOB = {"code": CODE, "language": "python", "compile_timeout": 0, "run_timeout": 1}
# Jobs wait so long for a worker, and no longer.
SHORT = {"timeout": 0.2}


class Router:
    """A router in this process, with its log."""

    def __init__(self, address: str, caplog: pytest.LogCaptureFixture) -> None:
        self.address = address
        self._caplog = caplog

    async def post(self, path: str = "/run_code", job: Any = JOB, **headers: str) -> int:
        """Send a job with the id ID; return the status of its answer."""
        named = {"x-request-id": ID, **{name.replace("_", "-"): value for name, value in headers.items()}}
        async with (
            aiohttp.ClientSession() as session,
            session.post(self.address + path, json=job, headers=named) as response,
        ):
            await response.read()
            return response.status

    def lines(self) -> list[logging.LogRecord]:
        """Return the log lines about ended jobs."""
        return [record for record in self._caplog.records if record.getMessage().startswith("Job ")]

    def line(self) -> Mapping[str, Any]:
        """Return the fields of the only line."""
        (record,) = self.lines()
        return vars(record)


@pytest.fixture
def routed(caplog: pytest.LogCaptureFixture) -> Any:
    """A router before some workers, with these settings."""
    caplog.set_level("INFO")

    @asynccontextmanager
    async def routing(*workers: ScriptedWorker, **settings: object) -> AsyncIterator[Router]:
        given = {
            "workers": [worker.url for worker in workers],
            "redis": {"url": "redis://127.0.0.1:1/0"},
            "timeout": 10,
            "job_grace": 5,
            **settings,
        }
        parsed = parse(json.dumps(given), "t")
        # As under gunicorn, without uvicorn's access log, because with it no job would use the head cache.
        async with served(create_app(parsed, Access.load(parsed)), access_log=False) as address:
            yield Router(address, caplog)
        assert CODE not in caplog.text

    return routing


async def broken_off(exchange: Exchange) -> None:
    """Send 2 MB of an answer of 3 MB."""
    await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 3000000\r\n\r\n{")
    await exchange.raw(b"x" * 2_000_000)
    exchange.close()


SANDBOX_ERROR = always(200, {"status": "SandboxError", "message": ""})


@pytest.mark.parametrize(
    ("script", "headers", "status", "verdict", "cause", "attempts"),
    [
        (always(503), {}, 503, "all_failed", "returned 503: Service Unavailable", 3),
        (close_at_once, {}, 422, "quarantined", "closed the connection without an answer", 2),
        (always(500), {}, 500, "error", "returned 500: Internal Server Error", 2),
        (SANDBOX_ERROR, {}, 200, "sandbox_error", "returned SandboxError", 2),
        (hang, {"x_router_deadline_ms": "900"}, 504, "deadline", "has not answered yet", 1),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_failed_job_is_found_by_its_request_id(
    routed: Any,
    workers: list[ScriptedWorker],
    script: Script,
    headers: dict[str, str],
    status: int,
    verdict: str,
    cause: str,
    attempts: int,
) -> None:
    """One line has the client's status, the duration and what each worker did, as text and as fields."""
    for worker in workers[:2]:
        worker.script = script
    async with routed(*workers[:2], retry={"attempts": 3}) as router:
        assert await router.post(**headers) == status
        line = router.line()
    assert (line["request_id"], line["path"], line["status"], line["verdict"]) == (ID, "/run_code", status, verdict)
    assert [attempt["cause"] for attempt in line["attempts"]] == [cause] * attempts
    assert {attempt["worker_url"] for attempt in line["attempts"]} <= {worker.url for worker in workers[:2]}
    assert (line["key_name"], line["levelname"]) == (None, "WARNING")
    assert 0 < line["seconds"] < 10
    told = "".join(f"; {attempt['worker_url']} {cause}" for attempt in line["attempts"])
    assert line["message"] == f"Job {ID} failed: {status} {verdict} after {line['seconds']:.3f} s, /run_code{told}"


async def test_failed_attempt_names_its_job(
    routed: Any, workers: list[ScriptedWorker], caplog: pytest.LogCaptureFixture
) -> None:
    """This holds even if another worker then did the job, which has no line of its own."""
    workers[0].script = workers[1].script = always(502)
    async with routed(*workers) as router:
        for _ in range(3):
            assert await router.post() == 200
        assert router.lines() == []
    told = [record for record in caplog.records if record.getMessage().startswith("Worker http")]
    assert {(vars(record)["request_id"], vars(record)["path"]) for record in told} == {(ID, "/run_code")}
    cause = "returned 502: Bad Gateway"
    assert f"Worker {workers[0].url} {cause} (job {ID}, /run_code, attempt 1)" in caplog.text
    assert {vars(record)["cause"] for record in told} == {cause}


async def test_ejection_without_redis_is_logged(
    routed: Any, workers: list[ScriptedWorker], caplog: pytest.LogCaptureFixture
) -> None:
    """Without Redis each process decides for itself, and logs the ejection and its end."""
    (bad, *_) = workers
    bad.script = always(503)
    async with routed(*workers[:2], breaker={"failures": 2, "base_seconds": 0.2}) as router:
        for _ in range(4):
            assert await router.post() == 200
        told = [
            text for text in caplog.messages if text.startswith(f"Worker {bad.url} is ejected by this process alone")
        ]
        assert len(told) == 1
        assert told[0].endswith(": 2 failed jobs in a row, the last: returned 503: Service Unavailable")
        bad.script = well

        async def is_over() -> bool:
            assert await router.post() == 200
            return f"Worker {bad.url} is ejected no more: it gets jobs again" in caplog.messages

        await eventually(is_over, what="the worker's return")


async def test_job_without_workers_is_found(routed: Any) -> None:
    """Its line names no attempts."""
    async with routed(queue=SHORT) as router:
        assert await router.post("/submit") == 503
        line = router.line()
    assert (line["path"], line["verdict"], line["attempts"]) == ("/submit", "no_workers", [])


async def test_jobs_refused_after_waiting_are_found(routed: Any, workers: list[ScriptedWorker]) -> None:
    """The queue was full, or the job's time was up."""
    workers[0].script = gate = Gate()
    queue = {"timeout": 0.3, "max_waiting": 1}
    async with routed(workers[0], default_max_concurrency=1, queue=queue) as router:
        running = asyncio.create_task(router.post(job={**JOB, "run_timeout": 9}))
        await eventually(lambda: workers[0].running, what="a job on the only slot")
        assert sorted(await asyncio.gather(*(router.post() for _ in range(2)))) == [503, 504]
        gate.open()
        assert await running == 200
        assert {vars(line)["verdict"] for line in router.lines()} == {"queue_full", "queue_timeout"}


async def test_job_whose_body_has_no_room_is_found(routed: Any, workers: list[ScriptedWorker]) -> None:
    """The job is refused before it is one, both alone and in a batch."""
    workers[0].script = gate = Gate()
    large = {**JOB, "run_timeout": 9, "files": {"a": "x" * 700_000}}
    async with routed(workers[0], max_body_mb=1, max_buffered_mb=1) as router:
        running = asyncio.create_task(router.post(job=large))
        await eventually(lambda: workers[0].running, what="a job that holds most")
        assert await router.post(job=large) == 503
        line = router.line()
        assert (line["request_id"], line["verdict"], line["status"]) == (ID, "buffers_full", 503)
        assert line["message"].endswith("/run_code; 1 MB of request bodies are held already")
        lines = json.dumps(large).encode() + b"\n{}"
        async with aiohttp.ClientSession() as session:
            batch = asyncio.create_task(_read(session, f"{router.address}/run_code/batch", lines))
            await eventually(lambda: len(router.lines()) == 2, what="the line of the batch's job")
            gate.open()
            assert await batch == 200
        assert await running == 200
        second = vars(router.lines()[1])
    assert (second["request_id"], second["path"]) == (f"{ID}-0", "/run_code")


async def _read(session: aiohttp.ClientSession, url: str, body: bytes) -> int:
    async with session.post(url, data=body, headers={"x-request-id": ID}) as response:
        await response.read()
        return response.status


async def test_line_of_a_batch_is_found(routed: Any) -> None:
    """Its id is the batch's id with the line's index."""
    async with routed(queue=SHORT) as router:
        assert await router.post("/run_code/batch", job=[JOB, JOB]) == 200
        found = {(vars(line)["request_id"], vars(line)["path"]) for line in router.lines()}
    assert found == {(f"{ID}-0", "/run_code"), (f"{ID}-1", "/run_code")}


async def test_answer_that_was_cut_is_found(routed: Any, workers: list[ScriptedWorker]) -> None:
    """The client has status 200 and a part of the answer, and the line names the worker that broke it off."""
    workers[0].script = broken_off
    async with routed(workers[0]) as router:
        with pytest.raises(aiohttp.ClientError):
            await router.post()
        line = router.line()
    assert (line["request_id"], line["verdict"], line["status"]) == (ID, "answer_cut", 200)
    cause = "closed the connection in mid-answer, when a part of its answer had gone to the client"
    assert line["attempts"] == [{"worker_url": workers[0].url, "cause": cause}]


async def test_batch_whose_client_hung_up_is_found(
    routed: Any, workers: list[ScriptedWorker], caplog: pytest.LogCaptureFixture
) -> None:
    """The batch and each pending job have a line, and running jobs continue."""
    (worker, *_) = workers
    worker.script = gate = Gate()
    long = {**JOB, "run_timeout": 9}
    async with routed(worker, default_max_concurrency=1) as router:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await router.post("/run_code/batch", job=[long, long])
        await eventually(lambda: f"Cut a batch short after 2 jobs: its client has left ({ID})" in caplog.messages)
        await eventually(router.lines, what="the line of the pending job")
        gate.open()
        line = router.line()
    assert (line["request_id"], line["verdict"]) == (f"{ID}-1", "client_left")


@pytest.mark.parametrize("rounds", [1, 2], ids=["first", "known head"])
async def test_line_names_the_key_that_the_job_came_with(routed: Any, tmp_path: Path, rounds: int) -> None:
    """The line has the key's name from the file, but neither the key nor its hash."""
    held = tmp_path / "keys"
    held.write_text(f"{sha256(b'the-key').hexdigest()}  trainer 1\n")
    key = {"x-api-key": "the-key", "x-a": "b"}
    async with routed(api_keys=str(held), queue=SHORT) as router, aiohttp.ClientSession(headers=key) as session:
        for _ in range(rounds):
            async with session.post(f"{router.address}/run_code", json=JOB) as response:
                assert response.status == 503
        line = router.lines()[-1]
        assert vars(line)["key_name"] == "trainer 1"
        assert ", key trainer 1" in line.getMessage()
        async with session.post(f"{router.address}/run_code/batch", json=[JOB]) as response:
            assert response.status == 200
            await response.read()
        assert vars(router.lines()[-1])["key_name"] == "trainer 1"
        async with aiohttp.ClientSession() as nobody, nobody.post(f"{router.address}/run_code", json=JOB) as response:
            assert response.status == 401
        assert len(router.lines()) == rounds + 1
        assert not any("the-key" in str(vars(line)) for line in router.lines())


@pytest.mark.parametrize("head", ["new", "known"])
async def test_large_answer_whose_client_hung_up_is_found(
    routed: Any, workers: list[ScriptedWorker], head: str
) -> None:
    """The client has read a part of the answer."""

    async def large(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 90000000\r\n\r\n{" + b"x" * 2_000_000)
        await exchange.until_closed()

    (worker, *_) = workers
    async with routed(worker) as router, aiohttp.ClientSession(headers={"x-a": "b"}) as session:
        if head == "known":
            async with session.post(f"{router.address}/run_code", json=JOB) as response:
                assert response.status == 200
        worker.script = large
        async with session.post(f"{router.address}/run_code", json=JOB) as response:
            await response.content.readexactly(1000)
            name = response.headers["x-request-id"]
            response.close()
        await eventually(router.lines, what="the line")
        line = router.line()
    assert (line["request_id"], line["path"], line["verdict"]) == (name, "/run_code", "client_left")
    cause = "answered 200 and its client left before the end"
    assert line["attempts"] == [{"worker_url": worker.url, "cause": cause}]


@pytest.mark.parametrize("head", ["new", "known"])
async def test_job_whose_client_hung_up_is_found(routed: Any, workers: list[ScriptedWorker], head: str) -> None:
    """This holds for a pending and for a running job, and neither line is a warning."""
    (worker, *_) = workers
    worker.script = gate = Gate()
    long = {**JOB, "run_timeout": 9}
    short = aiohttp.ClientTimeout(total=0.5)
    async with routed(worker, default_max_concurrency=1) as router, aiohttp.ClientSession() as session:
        if head == "known":
            worker.script = well
            async with session.post(f"{router.address}/run_code", json=long) as response:
                assert response.status == 200
            worker.script = gate

        async def give_up() -> None:
            with pytest.raises(TimeoutError):
                async with session.post(f"{router.address}/run_code", json=long, timeout=short):
                    """Wait for a message that never arrives."""

        await asyncio.gather(give_up(), give_up())
        await eventually(lambda: len(router.lines()) == 1, what="the line of the pending job")
        gate.open()
        await eventually(lambda: len(router.lines()) == 2, what="the line of the running job")
        waited, ran = map(vars, router.lines())
    assert (waited["status"], waited["verdict"], waited["attempts"]) == (499, "client_left", [])
    cause = "answered 200 when its client had left"
    assert (ran["status"], ran["attempts"]) == (499, [{"worker_url": worker.url, "cause": cause}])
    assert {waited["levelname"], ran["levelname"]} == {"INFO"}
