"""No permitted input blocks the event loop: other clients are served while it is read.

A pause is the CPU time of the loop's thread between two turns. Its limit is the time that a parser in C takes for a
part of this input in the same run, so that a slow or busy machine does not change the verdict. What the router's code
holds up is held up each time. What the machine holds up is not: the least of several tries counts.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from hashlib import sha256
from pathlib import Path

import aiohttp
import msgspec
import pytest
import uvloop

from router.auth import access
from router.auth.access import ApiKeys
from router.composition import create_app
from router.config.load import parse
from router.processes import free_port
from tests.support.serving import served
from tests.support.worker import Exchange, ScriptedWorker

MB = 2**20
SIZE_MB = 24
# A pause may be as long as the parsing of this many MB, a third of the input.
PART_MB = 8
PIECE_BYTES = 2**16
TRIES = 5

LISTS = b'{"code":"x","a":[%s1],"run_timeout":1}'
INPUTS: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "small lists": ("/run_code", lambda size: LISTS % (b"[]," * (size // 3))),
    "a long string": ("/run_code", lambda size: b'{"code":"%s","run_timeout":1}' % (b"x" * size)),
    "escapes": ("/run_code", lambda size: b'{"code":"%s","run_timeout":1}' % (b"\\n" * (size // 2))),
    "cells": ("/run_jupyter", lambda size: b'{"cells":[%s1],"total_timeout":1}' % (b'"",' * (size // 3))),
    "no limits": ("/submit", lambda size: b'{"a":[%s1]}' % (b"{}," * (size // 3))),
    "one item": ("/run_code/batch", lambda size: b"[%s]" % LISTS % (b"[]," * (size // 3))),
    "one line": ("/run_code/batch", lambda size: LISTS % (b"[]," * (size // 3)) + b"\n"),
    "one malformed item": ("/run_code/batch", lambda size: b'[{"a":[%s' % (b"[]," * (size // 3))),
    "empty lines": ("/run_code/batch", lambda size: b"\n" * size),
    "spaces": ("/run_code/batch", lambda size: b"[%s{}]" % (b" " * size)),
}


async def watch_pauses(longest_s: list[float]) -> None:
    """Add the longest CPU time between two looks, which are 1 ms and a turn of the loop apart, until cancelled."""
    longest_s.append(0.0)
    before = time.thread_time()
    while True:
        await asyncio.sleep(0.001)
        now = time.thread_time()
        longest_s[-1] = max(longest_s[-1], now - before)
        before = now


def limit_s() -> float:
    """Return the longest pause that is allowed, at the speed that this machine has now: that of parsing one part."""
    part = LISTS % (b"[]," * (PART_MB * MB // 3))
    since = time.thread_time()
    msgspec.json.decode(part, type=msgspec.Raw)
    return time.thread_time() - since


def serves_others(ask: Callable[[list[float]], Coroutine[object, object, None]]) -> bool:
    """Tell whether the loop pauses for no longer than the limit, in one of several tries."""
    longest_s: list[float] = []
    for _ in range(TRIES):
        before_s = limit_s()
        uvloop.run(ask(longest_s))
        if longest_s[-1] < max(before_s, limit_s()):
            return True
    return False


async def parts(body: bytes) -> AsyncIterator[bytes]:
    """Yield a body in the pieces of a network."""
    for start in range(0, len(body), PIECE_BYTES):
        yield body[start : start + PIECE_BYTES]
        await asyncio.sleep(0)


async def swallow(exchange: Exchange) -> None:
    """Answer with 1 MB of JSON that is slow to parse."""
    await exchange.answer(200, b'{"status":"Success","a":[%s"SandboxError"]}' % (b"[]," * (MB // 3 - 100)))


async def send(worker: ScriptedWorker, url: str, body: bytes) -> None:
    """Send a body to a router before this worker."""
    async with worker, aiohttp.ClientSession() as session, session.post(url, data=parts(body)) as response:
        assert response.status in (200, 422)
        async for _ in response.content.iter_any():
            pass


@pytest.mark.parametrize("name", INPUTS)
def test_other_clients_are_served_while_a_large_body_is_read(name: str) -> None:
    """The loop is never blocked, whatever the body holds; client and worker run in another thread."""
    path, make = INPUTS[name]
    body = make(SIZE_MB * MB)

    async def ask(longest_s: list[float]) -> None:
        worker = ScriptedWorker(swallow, port=free_port())
        given = {"workers": [worker.url], "max_body_mb": SIZE_MB + 1, "redis": {"url": "redis://127.0.0.1:1/0"}}
        async with served(create_app(parse(json.dumps(given), "t"))) as url:
            await asyncio.to_thread(asyncio.run, send(worker, f"{url}/run_code", b"{}"))  # warms up what is done once
            watching = asyncio.create_task(watch_pauses(longest_s))
            await asyncio.to_thread(asyncio.run, send(worker, f"{url}{path}", body))
            watching.cancel()

    assert serves_others(ask)


def test_changed_api_keys_are_read_beside_the_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading 100,000 keys takes as long as many jobs do: a thread does it. A job only looks its key up."""
    path = tmp_path / "keys"
    path.write_text("".join(f"{number:064x}\n" for number in range(100_000)))
    keys = ApiKeys(path)
    readers: list[threading.Thread] = []
    read = access._read_keys

    def seen(given: Path) -> dict[bytes, str]:
        readers.append(threading.current_thread())
        return read(given)

    monkeypatch.setattr(access, "_read_keys", seen)
    added = b"another key"
    path.write_text(path.read_text() + f"{sha256(added).hexdigest()} again\n")
    keys.look()
    keys.look()  # the second look at a file that was written in place
    while keys.name_of(added) is None:
        time.sleep(0.01)
    assert keys.name_of(added) == "again"
    assert threading.main_thread() not in readers


def test_description_of_the_api_is_made_at_the_start() -> None:
    """Making it at the first request would block the loop as long as parsing megabytes."""
    given = {"workers": ["http://127.0.0.1:1"], "redis": {"url": "redis://127.0.0.1:1/0"}}

    async def read(url: str) -> None:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/openapi.json") as response:
            assert (await response.json())["openapi"]

    async def ask(longest_s: list[float]) -> None:
        async with served(create_app(parse(json.dumps(given), "t"))) as url:
            watching = asyncio.create_task(watch_pauses(longest_s))
            await asyncio.to_thread(asyncio.run, read(url))
            watching.cancel()

    assert serves_others(ask)
