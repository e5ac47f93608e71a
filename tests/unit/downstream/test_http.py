"""The router's HTTP over real sockets: the application in this process, scripted workers, no Redis."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator

import aiohttp
import pytest

from router.composition import create_app
from router.config.load import parse
from router.jobs.endpoints import JOB_ENDPOINTS
from router.version import __version__
from tests.support.load import JOB
from tests.support.serving import served
from tests.support.worker import RESULT, Exchange, Script, ScriptedWorker, always, hang

NO_REDIS = "redis: {url: 'redis://127.0.0.1:1/0'}"
MANY_RETRIES = "retry: {budget_percent: 1000}"


@pytest.fixture
async def url(workers: list[ScriptedWorker]) -> AsyncIterator[str]:
    """A router before three scripted workers."""
    settings = parse(
        f"{{workers: {json.dumps([w.url for w in workers])}, max_body_mb: 1, timeout: 5, {MANY_RETRIES}, {NO_REDIS}}}",
        "t",
    )
    async with served(create_app(settings)) as address:
        yield address


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client."""
    async with aiohttp.ClientSession() as client:
        yield client


async def fail(exchange: Exchange) -> None:
    """Reset the connection instead of answering."""
    exchange.reset()


def script_all(workers: list[ScriptedWorker], script: Script) -> None:
    """Give all workers the same script."""
    for worker in workers:
        worker.script = script


async def test_blanks_around_a_field_s_value_do_not_count(
    url: str, workers: list[ScriptedWorker], session: aiohttp.ClientSession
) -> None:
    """They are no part of it: a tenant's name with one behind it is a good name."""
    headers = {"x-router-tenant": " run-7 \t", "x-router-deadline-ms": "5000 ", "x-own": "a b "}
    async with session.post(f"{url}/run_code", json=JOB, headers=headers) as response:
        assert (response.status, response.headers["x-router-tenant"]) == (200, "run-7")
    ((job,),) = (worker.jobs for worker in workers if worker.jobs)
    assert "x-own: a b\r\n" in f"{job.head}\r\n"


async def test_job_is_forwarded_unchanged_and_its_answer_names_the_worker(
    url: str, workers: list[ScriptedWorker], session: aiohttp.ClientSession
) -> None:
    """The worker gets the client's bytes; the client gets the worker's answer with router_metadata as its last key."""
    body = b'{ "code" :"print(1)",\n"language": "python", "extra": [1.0e2]}'
    headers = {"content-type": "application/json; charset=utf-8", "x-request-id": "abc-1", "x-tenant": "me"}
    async with session.post(f"{url}/run_code?debug=1", data=body, headers=headers) as response:
        text = await response.read()
    (worker,) = (worker for worker in workers if worker.jobs)
    (got,) = worker.jobs
    assert (got.method, got.target, got.body) == ("POST", "/run_code?debug=1", body)
    sent_on = {name: got.headers[name] for name in ("content-type", "x-request-id", "x-tenant")}
    assert sent_on == headers
    queue_ms = response.headers["x-router-queue-ms"]
    tail = f',"router_metadata":{{"worker_url":"{worker.url}","attempt":1,"queue_ms":{queue_ms}}}}}'
    assert text == json.dumps(RESULT).encode()[:-1] + tail.encode()
    assert response.headers["x-router-worker"] == worker.url
    assert (response.headers["x-router-attempt"], response.headers["x-request-id"]) == ("1", "abc-1")
    assert response.headers["content-type"] == "application/json"


async def test_invalid_request_id_is_replaced(url: str, session: aiohttp.ClientSession) -> None:
    """A missing, empty or too long id, or one with spaces, is replaced by a new one."""
    made = []
    for given in ({}, {"x-request-id": ""}, {"x-request-id": "x" * 129}, {"x-request-id": "a b"}):
        async with session.post(f"{url}/run_code", json=JOB, headers=given) as response:
            made.append(response.headers["x-request-id"])
    assert len(set(made)) == 4
    assert all(len(request_id) == 32 for request_id in made)


@pytest.mark.parametrize("status", [200, 201, 400, 404, 422])
async def test_final_answers_keep_status_and_type(
    url: str, workers: list[ScriptedWorker], session: aiohttp.ClientSession, status: int
) -> None:
    """A status below 500, except 429, is the job's own result and is not retried."""
    script_all(workers, always(status, {"detail": "x"}, "x-theirs: 1", "connection: keep-alive"))
    async with session.post(f"{url}/run_code", json=JOB) as response:
        body = await response.json()
    assert response.status == status
    assert body["detail"] == "x"
    assert body["router_metadata"]["attempt"] == 1
    assert response.headers["x-theirs"] == "1"
    assert "connection" not in response.headers
    assert sum(len(worker.jobs) for worker in workers) == 1


async def test_every_endpoint_of_a_worker_is_routed(
    url: str, workers: list[ScriptedWorker], session: aiohttp.ClientSession
) -> None:
    """One URL of the router serves every call of the SDK, and lists come back unchanged."""
    for path, method in JOB_ENDPOINTS.items():
        told: object = RESULT if path.startswith("/run_") else [{"id": 1}]
        script_all(workers, always(200, told))
        async with session.request(method, url + path, json={} if method == "POST" else None) as response:
            answer = await response.json()
        assert response.status == 200
        assert answer == told or {**answer, "router_metadata": None} == {**RESULT, "router_metadata": None}
    routed = sorted(f"{got.method} {got.target}" for worker in workers for got in worker.jobs)
    assert routed == sorted(f"{method} {path}" for path, method in JOB_ENDPOINTS.items())


async def test_compressed_answer_is_forwarded_unchanged(
    url: str, workers: list[ScriptedWorker], session: aiohttp.ClientSession
) -> None:
    """A compressed body is not searched for JSON."""
    packed = gzip.compress(b'{"a": 1}')
    script_all(workers, always(200, packed, "content-encoding: gzip"))
    async with session.post(f"{url}/run_code", json=JOB) as response:
        assert await response.json() == {"a": 1}


async def test_failed_attempts_are_retried_on_untried_workers(
    url: str, workers: list[ScriptedWorker], session: aiohttp.ClientSession
) -> None:
    """With two bad workers of three each job gets the right answer, and no worker is tried twice."""
    workers[0].script = always(200, b"garbage")
    workers[1].script = always(502, b"bad gateway")
    attempts = []
    for _ in range(30):
        async with session.post(f"{url}/run_code", json=JOB) as response:
            assert response.status == 200
            metadata = (await response.json())["router_metadata"]
            assert metadata["worker_url"] == workers[2].url
            attempts.append(metadata["attempt"])
    assert set(attempts) == {1, 2, 3}
    assert len(workers[2].jobs) == 30


async def test_all_failed_names_each_attempt_s_worker_and_cause(
    url: str, workers: list[ScriptedWorker], session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """The 503 and the log list each attempt's worker and cause, and the log never has the code."""
    workers[0].script = fail
    workers[1].script = always(503, {"detail": "x"})
    await workers[2].die()
    async with session.post(f"{url}/run_code", json={**JOB, "code": "secret_code()"}) as response:
        body = await response.json()
    assert response.status == 503
    assert body["detail"] == "All workers failed after 3 attempts"
    assert [attempt["attempt"] for attempt in body["attempts"]] == [1, 2, 3]
    causes = {attempt["worker_url"]: attempt["cause"] for attempt in body["attempts"]}
    assert causes[workers[0].url] == "closed the connection without an answer"
    assert causes[workers[1].url] == "returned 503: Service Unavailable"
    assert causes[workers[2].url].startswith("cannot be reached: ")
    assert response.headers["x-router-attempt"] == "3"
    assert f"Worker {workers[1].url} returned 503: Service Unavailable" in caplog.text
    assert "secret_code" not in caplog.text


async def test_job_on_a_hung_worker_is_retried_after_the_time_limit(
    workers: list[ScriptedWorker], session: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    """A timed-out attempt is followed by one on the next worker."""
    workers[0].script = hang
    text = f"{{workers: ['{workers[0].url}', '{workers[1].url}'], job_grace: 0.1, {NO_REDIS}}}"
    job = {**JOB, "compile_timeout": 0.05, "run_timeout": 0.05}
    async with served(create_app(parse(text, "t"))) as url:
        for _ in range(2):
            async with session.post(f"{url}/run_code", json=job) as response:
                assert (response.status, response.headers["x-router-worker"]) == (200, workers[1].url)
    assert f"Worker {workers[0].url} timed out" in caplog.text


async def test_without_workers_jobs_get_503_and_health_says_unhealthy(session: aiohttp.ClientSession) -> None:
    """An empty fleet is allowed, and both jobs and health report it."""
    async with served(create_app(parse(f"{{{NO_REDIS}, queue: {{without_workers: 0}}}}", "t"))) as url:
        async with session.post(f"{url}/run_code", json=JOB) as response:
            assert (response.status, await response.json()) == (503, {"detail": "No healthy workers available"})
            assert response.headers["x-request-id"]
            assert response.headers["retry-after"] == "1"
        async with session.get(f"{url}/health") as response:
            health = await response.json()
            assert (response.status, health["status"], health["total_workers"]) == (503, "unhealthy", 0)
            assert response.headers["retry-after"] == "1"


@pytest.mark.parametrize("is_chunked", [False, True], ids=["declared", "chunked"])
async def test_body_over_the_limit_gets_413(
    url: str, workers: list[ScriptedWorker], session: aiohttp.ClientSession, *, is_chunked: bool
) -> None:
    """A body over max_body_mb reaches no worker, with or without a declared length."""

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 2**19

    data = parts() if is_chunked else b"x" * (2**20 + 1)
    async with session.post(f"{url}/run_code", data=data) as response:
        assert (response.status, await response.json()) == (413, {"detail": "Request body is larger than 1 MB"})
    async with session.post(f"{url}/run_code", data=b"x" * 2**20) as response:
        assert response.status == 200
    assert sum(len(worker.jobs) for worker in workers) == 1


async def test_wrong_method_and_unknown_path_are_the_router_s_own_errors(
    url: str, workers: list[ScriptedWorker], session: aiohttp.ClientSession
) -> None:
    """A 405 names the allowed method, a 404 is plain JSON, and no worker sees either request."""
    async with session.get(f"{url}/run_code") as response:
        assert (response.status, response.headers["allow"]) == (405, "POST")
        assert await response.json() == {"detail": "Method Not Allowed"}
    async with session.post(f"{url}/nothing") as response:
        assert (response.status, await response.json()) == (404, {"detail": "Not Found"})
    assert not any(worker.jobs for worker in workers)


async def test_ping_is_answered_with_quotes(url: str, session: aiohttp.ClientSession) -> None:
    """The answer to a ping is byte for byte a worker's."""
    async with session.get(f"{url}/v1/ping") as response:
        assert (response.status, await response.read()) == (200, b'"pong"')


async def test_router_can_be_a_worker_of_another_router(url: str, session: aiohttp.ClientSession) -> None:
    """The answer has the metadata of the outer router."""
    async with (
        served(create_app(parse(f"{{workers: ['{url}'], {NO_REDIS}}}", "t"))) as outer,
        session.post(f"{outer}/run_code", json=JOB) as response,
    ):
        metadata = (await response.json())["router_metadata"]
        assert (metadata["worker_url"], metadata["attempt"]) == (url, 1)
        assert response.headers.getall("x-router-worker") == [url]
        assert len(response.headers.getall("x-request-id")) == 1


async def test_status_shows_service_version_and_workers(
    url: str, workers: list[ScriptedWorker], session: aiohttp.ClientSession
) -> None:
    """Without Redis GET / shows config.yaml's workers as unchecked, and names what is missing."""
    async with session.get(f"{url}/") as response:
        status = await response.json()
    assert (status["service"], status["version"]) == ("SandboxFusion Router", __version__)
    assert [worker["url"] for worker in status["workers"]] == sorted(worker.url for worker in workers)
    assert {(worker["healthy"], worker["health"]) for worker in status["workers"]} == {(False, "unknown")}
    assert (status["redis"], status["sidecar"]) == (
        "unavailable",
        {"leader": None, "age_seconds": None, "schema_version": None},
    )


async def test_counts_need_redis(url: str, session: aiohttp.ClientSession) -> None:
    """Without Redis the counts get 503."""
    async with session.get(f"{url}/admin/stats") as response:
        detail = (await response.json())["detail"]
        assert (response.status, detail.partition(":")[0]) == (503, "Redis is unavailable")
        assert response.headers["retry-after"] == "1"


async def test_openapi_describes_every_endpoint(url: str, session: aiohttp.ClientSession) -> None:
    """The description has every endpoint, and the fields of /run_code."""
    async with session.get(f"{url}/openapi.json") as response:
        schema = await response.json()
    described = {(path, method.upper()) for path, methods in schema["paths"].items() for method in methods}
    admin = {("/admin/workers", method) for method in ("GET", "POST", "PATCH", "DELETE")}
    admin |= {("/admin/tenants", method) for method in ("GET", "PATCH", "DELETE")}
    admin |= {("/admin/workers/drain", "POST"), ("/admin/workers/resume", "POST")}
    admin |= {(f"/admin/{name}", "GET") for name in ("stats", "events", "failures", "history", "scaling")}
    own = {("/", "GET"), ("/health", "GET"), ("/metrics", "GET"), ("/v1/ping", "GET"), ("/run_code/batch", "POST")}
    assert described == own | admin | set(JOB_ENDPOINTS.items())
    statuses = {401, 403, 404, 409, 422, 503}
    assert {str(status) for status in statuses} <= schema["paths"]["/admin/workers"]["delete"]["responses"].keys()
    fields = schema["components"]["schemas"]["RunCodeRequest"]["properties"]
    assert {"code", "language", "run_timeout", "compile_timeout", "stdin", "files", "fetch_files"} <= fields.keys()


async def test_docs_load_nothing_from_other_hosts(url: str, session: aiohttp.ClientSession) -> None:
    """/docs works without internet, and below a proxy's path because its addresses are relative."""
    async with session.get(f"{url}/docs") as response:
        page = await response.text()
        assert (response.status, response.content_type) == (200, "text/html")
        assert "default-src 'none'; script-src 'self'" in response.headers["content-security-policy"]
    parts = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(parts) == 4
    for part in parts:
        assert not part.startswith(("/", "http"))
        async with session.get(f"{url}/{part}") as response:
            assert response.status == 200
            if part == "docs/start.js":
                assert re.findall(r'url: "([^"]+)"', await response.text()) == ["openapi.json"]
    async with session.get(f"{url}/openapi.json") as response:
        assert (await response.json())["servers"] == [{"url": "./"}]
    async with session.get(f"{url}/redoc") as response:
        assert response.status == 404


async def test_client_that_hangs_up_while_sending_leaves_no_trace(
    url: str, workers: list[ScriptedWorker], session: aiohttp.ClientSession
) -> None:
    """Half a body reaches no worker, and the next job runs."""
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(b"POST /run_code HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nhalf")
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with session.post(f"{url}/run_code", json=JOB) as response:
        assert response.status == 200
    assert sum(len(worker.jobs) for worker in workers) == 1
