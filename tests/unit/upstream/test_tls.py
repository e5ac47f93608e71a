"""Workers behind https:// with certificates of a CA made for the test."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trustme

from router.config.load import ConfigError, parse
from router.config.settings import HealthCheckSettings, TlsSettings
from router.http.response import Phase, UpstreamFailed
from router.upstream.connection import HOLD_BYTES
from router.upstream.pool import Request, WorkerPool
from sidecar.probe import Probe
from tests.support.eventually import sent
from tests.support.worker import Exchange, ScriptedWorker

REQUEST = Request(b"POST", b"/run_code", b"content-length: 2\r\n\r\n", b"{}")
UNKNOWN_CA = "cannot be reached: .*certificate verify failed"


@pytest.fixture
def authority() -> trustme.CA:
    """The CA of the worker's certificate."""
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    """The CA's certificate in a file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
async def worker(authority: trustme.CA) -> AsyncIterator[ScriptedWorker]:
    """A worker with TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    async with ScriptedWorker(tls=context) as scripted:
        yield scripted


async def send(worker_url: str, tls: TlsSettings) -> int:
    """Send a job over a new connection and return the answer's status."""
    upstream = WorkerPool(tls)
    try:
        return (await sent(upstream, worker_url, REQUEST, timeout_s=10)).head.status
    finally:
        upstream.close()


async def check(worker_url: str, tls: TlsSettings) -> str | None:
    """Return the error of the sidecar's check."""
    async with Probe(tls) as probe:
        return (await probe.ping(worker_url, HealthCheckSettings())).error


async def test_worker_certified_by_the_given_ca_is_reached(worker: ScriptedWorker, ca_file: str) -> None:
    """Jobs and checks reach it."""
    tls = TlsSettings(ca=ca_file)
    assert await send(worker.url, tls) == 200
    assert await check(worker.url, tls) is None


async def test_worker_certified_by_another_ca_gets_nothing(worker: ScriptedWorker) -> None:
    """The system's CAs do not know its CA, so the job was never sent, and both errors say why."""
    with pytest.raises(UpstreamFailed, match=UNKNOWN_CA) as caught:
        await send(worker.url, TlsSettings())
    assert caught.value.phase is Phase.CONNECT
    error = await check(worker.url, TlsSettings())
    assert error is not None
    assert "certificate verify failed" in error
    assert worker.jobs == []


async def test_certificate_for_another_name_is_refused(worker: ScriptedWorker, ca_file: str) -> None:
    """A certificate for 127.0.0.1 is not valid for localhost."""
    url = worker.url.replace("127.0.0.1", "localhost")
    with pytest.raises(UpstreamFailed, match=UNKNOWN_CA):
        await send(url, TlsSettings(ca=ca_file))


async def test_verify_false_accepts_any_certificate(worker: ScriptedWorker) -> None:
    """An operator may have to allow this."""
    tls = TlsSettings(verify=False)
    assert await send(worker.url, tls) == 200
    assert await check(worker.url, tls) is None


async def test_worker_without_tls_behind_https_cannot_be_reached() -> None:
    """The server speaks plain HTTP, so the job was never sent."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as plain:
        port = plain.sockets[0].getsockname()[1]
        with pytest.raises(UpstreamFailed, match="cannot be reached: ") as caught:
            await send(f"https://127.0.0.1:{port}", TlsSettings())
    assert caught.value.phase is Phase.CONNECT


async def test_large_answer_over_tls_is_complete_after_the_worker_closed(worker: ScriptedWorker, ca_file: str) -> None:
    """The bytes sent before the close are read at the reader's own pace, to the last one."""
    size = 4 * HOLD_BYTES

    async def large(exchange: Exchange) -> None:
        await exchange.answer(200, b"x" * size, "connection: close")
        exchange.close()

    worker.script = large
    upstream = WorkerPool(TlsSettings(ca=ca_file))
    response = await sent(upstream, worker.url, REQUEST, timeout_s=10)
    assert response.rest
    got = len(response.body)
    async for part in response.rest:
        got += len(part)
        await asyncio.sleep(0.01)
    assert got == size
    upstream.close()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected a file of PEM certificates: it holds none"),
        (None, "expected a file of PEM certificates: No such file or directory"),
    ],
    ids=["empty", "missing"],
)
def test_unusable_ca_file_is_reported_with_its_key(tmp_path: Path, text: str | None, told: str) -> None:
    """The error comes at the start, not at the first job."""
    path = tmp_path / "ca.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        parse(f"tls: {{ca: {path}}}", "my.yaml")
    assert str(caught.value) == f"my.yaml: tls.ca: {told}, got '{path}'"


async def test_ca_is_read_with_the_settings(worker: ScriptedWorker, ca_file: str, tmp_path: Path) -> None:
    """Later changes of the file have no effect, and comments in it may have any characters."""
    path = tmp_path / "ca-for-a-while.pem"
    path.write_bytes("# Köln\n".encode() + Path(ca_file).read_bytes())
    tls = TlsSettings(ca=str(path))
    path.unlink()
    assert await send(worker.url, tls) == 200
