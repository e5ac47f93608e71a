"""A worker that needs almost no CPU: it answers each job at once, with 400 bytes or with `?answer=BYTES`.

`python -m bench.support.constworker COUNT` runs COUNT workers and prints their URLs as one line of JSON. Each listens
on a loopback address of its own, so that thousands of them take no ports from other programs.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlsplit

import httptools
import uvloop

from tests.support.eventually import eventually
from tests.support.programs import Program

_ANSWER_BYTES = 400


@cache
def _answer(target: bytes) -> bytes:
    """Return the whole response to a job that was sent to `target`."""
    (length,) = parse_qs(urlsplit(target.decode()).query).get("answer", [str(_ANSWER_BYTES)])
    result = {"status": "Finished", "execution_time": 0.03, "return_code": 0, "stdout": "", "stderr": ""}
    answer = {"status": "Success", "message": "", "compile_result": None, "run_result": result}
    result["stdout"] = "1" * (int(length) - len(json.dumps(answer)))
    return _message(json.dumps(answer).encode())


def _message(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


_PONG = _message(b'"pong"')


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # TCP gives nothing else

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, part: bytes) -> None:
        self._target += part

    def on_message_complete(self) -> None:
        target, self._target = self._target, b""
        self._transport.write(_answer(target) if self._parser.get_method() == b"POST" else _PONG)


async def serve(count: int) -> None:
    """Run `count` workers until killed."""
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(_Connection, _address(number), 0) for number in range(count)]
    names = [server.sockets[0].getsockname() for server in servers]
    print(json.dumps([f"http://{address}:{port}" for address, port in names]), flush=True)
    await asyncio.Event().wait()


def _address(number: int) -> str:
    high, low = divmod(number, 250)
    return f"127.0.{high}.{low + 1}"


@asynccontextmanager
async def constant_workers(count: int, folder: Path) -> AsyncIterator[list[str]]:
    """Run `count` workers in one process of their own. Yields their URLs."""
    argv = [sys.executable, "-m", "bench.support.constworker", str(count)]
    async with Program(argv, folder / "constworker.log") as program:
        await eventually(lambda: "\n" in program.output, what="the workers")
        yield json.loads(program.output)


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
