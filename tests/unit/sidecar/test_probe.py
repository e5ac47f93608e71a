"""How a check judges each answer of a scripted worker on a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from itertools import count
from types import SimpleNamespace

import pytest

from router.config.settings import HealthCheckSettings, TlsSettings
from router.processes import free_port
from sidecar.probe import Probe
from tests.support.worker import Exchange, Script, ScriptedWorker, always, hang, reset

CHECK = HealthCheckSettings()
DONE = {"status": "Success", "run_result": {"stdout": "1\n"}}


@pytest.fixture
async def probe() -> AsyncIterator[Probe]:
    """The probe under test."""
    async with Probe(TlsSettings()) as asking:
        yield asking


@pytest.mark.parametrize(
    ("ping", "error"),
    [
        (always(200, b'"pong"'), None),
        (always(200, b" pong\n"), None),
        (always(200, b"ponk"), "answered b'ponk' instead of pong"),
        (always(200, b"x" * 50), f"answered {b'x' * 40!r} instead of pong"),
        (always(200, b"pong" + b" " * 70_000), None),
        (always(200, b" " * 65_534 + b"pong"), f"answered {b' ' * 40!r} instead of pong"),
        (always(503, b"pong"), "returned 503: X"),
        (always(302, b"", "location: /v1/other"), "returned 302: X"),
        (always(200, b"pong", "content-encoding: gzip"), None),  # the encoding is ignored
        (reset, "gave no whole answer: "),
        (hang, "timed out after 0.5 s"),
    ],
)
async def test_ping_is_good_or_has_a_reason(
    worker: ScriptedWorker, probe: Probe, ping: Script, error: str | None
) -> None:
    """The status and the first bytes decide, and redirects are not followed."""
    worker.ping = ping
    settings = HealthCheckSettings(timeout=0.5) if ping is hang else CHECK
    seen = await probe.ping(worker.url, settings)
    if error is None:
        assert seen.error is None
    else:
        assert str(seen.error).startswith(error)
    assert (0 <= seen.latency_ms < 60_000, worker.jobs) == (True, [])
    assert seen.latency_ms >= 500 or ping is not hang


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
async def test_host_that_no_resolver_accepts_is_unreachable(probe: Probe, host: str) -> None:
    """This holds for any error of the resolver."""
    seen = await probe.ping(f"http://{host}:1", CHECK)
    assert seen.error == "cannot be reached: its host cannot be a name in DNS"


async def test_check_has_its_duration(worker: ScriptedWorker, probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """The duration is in milliseconds."""
    clock = iter((1000.0, 1000.25))
    monkeypatch.setattr("sidecar.probe.time", SimpleNamespace(monotonic=lambda: next(clock)))
    assert (await probe.ping(worker.url, CHECK)).latency_ms == 250


async def test_absent_worker_is_unreachable(probe: Probe) -> None:
    """The message differs from that for an answer that breaks off."""
    seen = await probe.ping(f"http://127.0.0.1:{free_port()}", CHECK)
    assert seen.error == "cannot be reached: Connection refused"


async def test_answer_that_breaks_off_is_no_pong(worker: ScriptedWorker, probe: Probe) -> None:
    """Its beginning does not matter."""

    async def cut(exchange: Exchange) -> None:
        await exchange.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\npong")
        exchange.close()

    worker.ping = cut
    assert str((await probe.ping(worker.url, CHECK)).error).startswith("gave no whole answer: ")


async def test_each_check_uses_a_new_connection(worker: ScriptedWorker, probe: Probe) -> None:
    """A new connection shows whether the worker accepts any, and no check waits for another one."""
    for number in (1, 2, 3):
        await probe.ping(worker.url, CHECK)
        assert worker.connections == number
    numbers = count(1)
    both = asyncio.Event()

    async def together(exchange: Exchange) -> None:
        if next(numbers) == 2:
            both.set()
        await both.wait()
        await exchange.answer(200, b"pong")

    worker.ping = together
    seen = await asyncio.gather(*(probe.ping(worker.url, CHECK) for _ in range(2)))
    assert [each.error for each in seen] == [None, None]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (always(200, DONE), None),
        (always(200, {**DONE, "status": "Failed"}), "Failed, and printed '1\\n' instead of '1\\n'"),
        (always(200, {"status": "Success", "run_result": {"stdout": "2\n"}}), "Success, and printed '2\\n' instead of"),
        (always(200, {"status": "Success", "run_result": {"stdout": None}}), "Success, and printed '' instead of"),
        (always(200, {"status": "Success"}), "Success, and printed '' instead of '1\\n'"),
        (always(200, {"status": "SandboxError", "message": " no \n space "}), "SandboxError: no space"),
        (always(200, {"status": "SandboxError", "message": "x" * 300}), "SandboxError: " + "x" * 200),
        (always(200, {"status": "y" * 300}), "y" * 200 + ", and printed"),
        (always(200, b"<html>" + b"z" * 90), "answered b'<html>zzzz"),
        (always(200, b'{"status": "\xff"}'), 'answered b\'{"status": '),
        (always(200, b"{}"), "answered b'{}' instead of a result"),
        (always(500, b"oops"), "returned 500: X"),
    ],
)
async def test_job_is_good_or_has_a_reason(
    worker: ScriptedWorker, probe: Probe, answer: Script, reason: str | None
) -> None:
    """A good answer has Success and the right output; the message has at most one line of the worker's text."""
    worker.script = answer
    told = await probe.run_job(worker.url, 7)
    if reason is None:
        assert told is None
    else:
        assert told is not None
        assert told.startswith(reason)
        assert len(told) < 300
        assert "\n" not in told
    (job,) = worker.jobs
    assert (job.method, job.target) == ("POST", "/run_code")
    assert json.loads(job.body) == {"code": "print(1)", "language": "python", "run_timeout": 7}
    assert job.headers["user-agent"] == "sandboxfusion-router-sidecar"
    assert job.headers["accept-encoding"] == "identity"


async def test_job_without_an_answer_times_out(worker: ScriptedWorker, probe: Probe) -> None:
    """The caller decides what a timeout means, because the worker may be busy."""
    worker.script = hang
    with pytest.raises(TimeoutError):
        await probe.run_job(worker.url, 0.3)


async def test_closed_probe_closes_its_session(worker: ScriptedWorker) -> None:
    """No connection stays open."""
    async with Probe(TlsSettings()) as probe:
        assert (await probe.ping(worker.url, CHECK)).error is None
    assert probe._session.closed
