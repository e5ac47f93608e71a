"""No job runs without the gate's admission, in whatever way it arrives."""

import ast
import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest

from router.auth.access import Access
from router.composition import create_app
from router.config.load import parse
from router.http.answer import Answer
from router.http.asgi import Message
from router.http.headers import Headers
from router.jobs.endpoints import Asked
from router.jobs.handler import JobHandler
from tests.project.test_laws import MODULES
from tests.support.files import put
from tests.support.jobs import stays
from tests.support.load import JOB
from tests.support.serving import served
from tests.support.worker import ScriptedWorker

KEY = "the-key"
TEXT = json.dumps(JOB).encode()
SENT_BY: Mapping[str, Mapping[str, str]] = {
    "x-api-key": {"x-api-key": KEY},
    "bearer": {"authorization": f"Bearer {KEY}"},
}
REFUSED: Mapping[str, Mapping[str, str]] = {
    "no key": {},
    "unknown key": {"x-api-key": "another"},
    "another site's page": {"x-api-key": KEY, "sec-fetch-site": "cross-site"},
}


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A file with one key."""
    held = tmp_path / "keys"
    held.write_text(f"{sha256(KEY.encode()).hexdigest()}  trainer\n")
    return held


def router(keys: Path, *workers: ScriptedWorker) -> JobHandler:
    """Return a router that wants a key."""
    settings = {"workers": [worker.url for worker in workers], "redis": {"url": "redis://127.0.0.1:1/0"}}
    parsed = parse(json.dumps({**settings, "api_keys": str(keys)}), "t")
    handler = create_app(parsed, Access.load(parsed))
    assert isinstance(handler, JobHandler)
    return handler


# A way sends one job with these header fields and returns the status of its answer.
Way = Callable[[Mapping[str, str]], Awaitable[int]]


@asynccontextmanager
async def http_way(handler: JobHandler, path: str, times: int) -> AsyncIterator[Way]:
    """Yield a way over a connection; the last of `times` jobs counts."""
    async with served(handler, access_log=False) as url, aiohttp.ClientSession() as session:

        async def send(headers: Mapping[str, str]) -> int:
            status = 0
            for _ in range(times):
                async with session.post(f"{url}{path}", data=TEXT, headers=headers) as response:
                    await response.read()
                    status = response.status
            return status

        yield send


@asynccontextmanager
async def new_way(handler: JobHandler) -> AsyncIterator[Way]:
    """Yield a way without HTTP, as for jobs of a queue; if a head is refused, ASGI gives the reason."""

    async def body() -> Message:
        return {"type": "http.request", "body": TEXT}

    async def send(headers: Mapping[str, str]) -> int:
        fields: Headers = [(b"host", b"router"), *((name.encode(), its.encode()) for name, its in headers.items())]
        asked = Asked("POST", "/run_code", b"", fields)
        head = handler.read(asked, keep_alive=True)
        if head is None:
            sent: list[Message] = []

            async def keep(message: Message) -> None:
                sent.append(message)

            scope = {"type": "http", "method": "POST", "path": "/run_code", "query_string": b"", "headers": fields}
            await handler(scope, body, keep)
            status: int = sent[0]["status"]
            return status
        answered: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        handler.begin(head, TEXT, stays, answered.set_result, lambda _: None)
        answer = await answered
        assert answer is not None
        return answer.status

    async with served(handler, access_log=False):
        yield send


WAYS = {
    "new head": lambda handler: http_way(handler, "/run_code", 1),
    "known head": lambda handler: http_way(handler, "/run_code", 3),
    "plain ASGI": lambda handler: http_way(handler, "/run%5Fcode", 1),
    "batch": lambda handler: http_way(handler, "/run_code/batch", 1),
    "new head of a tenant's path": lambda handler: http_way(handler, "/t/x/run_code", 1),
    "known head of a tenant's path": lambda handler: http_way(handler, "/t/x/run_code", 3),
    "plain ASGI of a tenant's path": lambda handler: http_way(handler, "/t/a%20b/run_code", 1),
    "batch of a tenant's path": lambda handler: http_way(handler, "/t/x/run_code/batch", 1),
    "a new way": new_way,
}


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_in_needs_a_key(way: str, keys: Path, workers: list[ScriptedWorker]) -> None:
    """With a key the job runs and no worker sees the key; without a key no worker sees the job."""
    worker = workers[0]
    async with WAYS[way](router(keys, worker)) as send:
        for headers in SENT_BY.values():
            assert await send(headers) == 200
        seen = len(worker.jobs)
        assert seen
        assert not any(KEY in job.head for job in worker.jobs)
        for name, headers in REFUSED.items():
            assert await send(headers) == (403 if "page" in name else 401), name
        assert len(worker.jobs) == seen


async def test_removed_key_is_refused_for_a_cached_head(keys: Path, workers: list[ScriptedWorker]) -> None:
    """A cached head is admitted again for each job."""
    settings = {"workers": [workers[0].url], "redis": {"url": "redis://127.0.0.1:1/0"}, "api_keys": str(keys)}
    parsed = parse(json.dumps(settings), "t")
    access = Access.load(parsed)
    assert access.api_keys is not None
    handler = create_app(parsed, access)
    assert isinstance(handler, JobHandler)
    async with http_way(handler, "/run_code", 3) as send:
        assert await send({"x-api-key": KEY}) == 200
        put(keys, "")
        access.api_keys.look()
        assert await send({"x-api-key": KEY}) == 401


def test_only_the_gate_makes_admissions() -> None:
    """A job needs an Admission, so any other code that made one could let jobs pass the gate."""
    makers = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Admission"
    }
    assert makers == {"router.auth.access"}
