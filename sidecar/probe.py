"""Asks a worker over HTTP whether it answers a ping in time, and whether it runs a job of one line."""

import asyncio
import time
from datetime import UTC, datetime
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp
import msgspec

from router.config.settings import HealthCheckSettings, TlsSettings
from router.config.worker_auth import WorkerAuth
from router.fleet.model import Observation
from router.http.reasons import reason

# SandboxFusion answers a JSON string, with quotes. An answer without quotes is accepted, too.
PONGS = (b'"pong"', b"pong")
PRINTED = "1\n"
JOB = {"code": "print(1)", "language": "python"}
# The user agent tells checks from jobs in a worker's own log. Answers are not decompressed, so none may be compressed.
HEADERS = {"User-Agent": "sandboxfusion-router-sidecar", "Accept-Encoding": "identity"}
# Enough for a pong, a result of JOB and a failure's traceback.
_READ_BYTES = 65_536
_SHOWN_CHARACTERS = 200


class _Ran(msgspec.Struct):
    stdout: str | None = None


class _Result(msgspec.Struct):
    status: str
    message: str | None = None
    run_result: _Ran | None = None


class Probe:
    """Sends checks. Each has a connection of its own, so that it also shows whether the worker accepts connections.

    `auth` holds the headers that workers ask for.
    """

    def __init__(self, tls: TlsSettings, auth: WorkerAuth | None = None) -> None:
        self.auth = auth or WorkerAuth()
        self._tls = tls
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        # No limit, because the time that a check waits for a connection would count as the worker's.
        connector = aiohttp.TCPConnector(limit=0, force_close=True, ssl=self._tls.context())
        self._session = aiohttp.ClientSession(connector=connector, headers=HEADERS, auto_decompress=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ping(self, worker_url: str, settings: HealthCheckSettings) -> Observation:
        """Ping the worker at `worker_url` once. Never raises: an error is part of the observation."""
        checked_at = datetime.now(UTC)
        start = time.monotonic()
        try:
            body, error = await self._ask("GET", worker_url, settings.path, None, settings.timeout)
            if error is None and body.strip() not in PONGS:
                error = f"answered {body[:40]!r} instead of pong"
        except TimeoutError:
            error = f"timed out after {settings.timeout:g} s"
        return Observation(checked_at, (time.monotonic() - start) * 1000, error)

    async def run_job(self, worker_url: str, timeout_s: float) -> str | None:
        """Have the worker run one line of Python; return what is wrong with its answer, or None.

        Raises TimeoutError.
        """
        job = {**JOB, "run_timeout": timeout_s}
        body, error = await self._ask("POST", worker_url, "/run_code", job, timeout_s)
        return error or _failure(body)

    async def _ask(
        self, method: str, worker_url: str, path: str, json: object, timeout_s: float
    ) -> tuple[bytes, str | None]:
        """Return the beginning of the body of a 200 answer, or why there is none. Raises TimeoutError."""
        header = self.auth.for_worker(worker_url)
        if header is None:
            return await self._send(method, worker_url + path, json, {}, timeout_s)
        body, error = await self._send(method, worker_url + path, json, {header.name: header.value}, timeout_s)
        # A worker may repeat the header in its answer, and answers go to Redis and to logs.
        return header.hidden_in(body.decode("latin-1")).encode("latin-1"), error and header.hidden_in(error)

    async def _send(
        self, method: str, url: str, json: object, headers: dict[str, str], timeout_s: float
    ) -> tuple[bytes, str | None]:
        async with asyncio.timeout(timeout_s):
            try:
                async with self._session.request(
                    method, url, json=json, headers=headers, allow_redirects=False
                ) as response:
                    if response.status != HTTPStatus.OK:
                        return b"", f"returned {response.status}: {response.reason or 'no reason'}"
                    return await _start_of(response.content), None
            except (aiohttp.ClientConnectorError, UnicodeError) as failure:  # UnicodeError: DNS can have no such name
                return b"", f"cannot be reached: {reason(failure)}"
            except (aiohttp.ClientError, OSError) as failure:
                return b"", f"gave no whole answer: {failure}"


async def _start_of(content: aiohttp.StreamReader) -> bytes:
    body = b""
    while len(body) < _READ_BYTES and (part := await content.read(_READ_BYTES - len(body))):
        body += part
    return body


def _failure(body: bytes) -> str | None:
    r"""Return why `body` is not the right result of JOB, or None if it is.

    >>> _failure(b'{"status": "Success", "run_result": {"stdout": "1\\n"}}')
    >>> _failure(b'{"status": "SandboxError", "message": "no space left"}')
    'SandboxError: no space left'
    """
    try:
        result = msgspec.json.decode(body, type=_Result)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return f"answered {body[:40]!r} instead of a result"
    printed = result.run_result.stdout if result.run_result else None
    if result.status == "Success" and printed == PRINTED:
        return None
    if result.message:
        return f"{result.status}: {' '.join(result.message[:_SHOWN_CHARACTERS].split())}"
    return f"{result.status[:_SHOWN_CHARACTERS]}, and printed {(printed or '')[:40]!r} instead of {PRINTED!r}"
