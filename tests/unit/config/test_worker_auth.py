"""The header that workers want: read from files, sent only to its worker, and never taken from a client."""

import os
from pathlib import Path

import pytest

from router.config.load import ConfigError, parse
from router.config.settings import HealthCheckSettings, Settings, TlsSettings
from router.config.worker_auth import WorkerAuth
from router.upstream.pool import Request, WorkerPool
from sidecar.probe import Probe
from tests.support.eventually import sent
from tests.support.worker import Exchange, ScriptedWorker

A, B = "http://a:1", "http://b:1"
SECRET = "hunter2-hunter2"


def written(path: Path, text: str) -> str:
    """Return the name of a file with this text."""
    path.write_text(text)
    return str(path)


def settings(**keys: object) -> Settings:
    """Return these settings."""
    return Settings.model_validate(keys)


def test_worker_s_own_header_goes_before_that_for_all(tmp_path: Path) -> None:
    """Workers without their own header, also those added at run time, get the common one."""
    for_all = written(tmp_path / "all", f"Authorization: Bearer {SECRET}\n")
    own = written(tmp_path / "own", "\ufeffX-Api-Key:  one two\r\n")
    auth = WorkerAuth.load(settings(worker_auth=for_all, workers=[{"url": "http://A.:01/", "worker_auth": own}]))
    first, other = auth.for_worker(A), auth.for_worker(B)
    assert first is not None
    assert other is not None
    assert (first.name, first.value) == ("x-api-key", "one two")
    assert (other.name, other.value) == ("authorization", f"Bearer {SECRET}")
    assert SECRET not in repr(other)
    alone = WorkerAuth.load(settings(workers=[{"url": A, "worker_auth": own}]))
    assert alone.for_worker(B) is None


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            SECRET,
            f"Bearer {SECRET}",
            f"A b: {SECRET}",
            f"A: {SECRET}\nB: {SECRET}",
            f": {SECRET}",
            "A:",
            "A: \x7f",
        ),
        *(
            f"A: {SECRET}\r\nhost: b",
            f"A: é{SECRET}",
            f"Host: {SECRET}",
            f"Content-Length: {SECRET}",
            "A: " + "x" * 9000,
        ),
        f"A: {SECRET}\0",
    ],
)
def test_file_without_a_header_is_reported_without_its_content(tmp_path: Path, text: str) -> None:
    """The program does not start, and its log repeats nothing of the file."""
    path = written(tmp_path / "auth", text)
    with pytest.raises(ConfigError, match=r"worker_auth: .*auth: ") as caught:
        WorkerAuth.load(settings(worker_auth=path))
    assert SECRET not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        WorkerAuth.load(settings(worker_auth=str(tmp_path / "none")))


def test_header_in_place_of_its_file_is_reported_without_its_value() -> None:
    """Otherwise `sfr config show` would show it."""
    for text in (
        f"worker_auth: 'Authorization: Bearer {SECRET}'",
        f"workers: [{{url: {A}, worker_auth: 'X: {SECRET}'}}]",
    ):
        with pytest.raises(ConfigError, match="worker_auth: expected the name of a file") as caught:
            parse(text, "c")
        assert SECRET not in str(caught.value)


def test_changed_file_is_read_again_and_a_bad_one_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The last good header stays in force; the settings may name another file, or none."""
    path = tmp_path / "auth"
    told = settings(worker_auth=written(path, "A: one"))
    auth = WorkerAuth.load(told)

    def value() -> str | None:
        header = auth.for_worker(A)
        return None if header is None else header.value

    for text, expected in (("A: second", "second"), (SECRET, "second"), ("A: third", "third")):
        written(path, text)
        os.utime(path, ns=(1, len(text)))
        for _ in range(2):
            auth.reread(told)
        assert value() == expected
    path.unlink()
    auth.reread(told)
    assert value() == "third"
    assert caplog.text.count("not taken over, the last good one stays in force") == 2
    assert SECRET not in caplog.text
    auth.reread(settings(worker_auth=written(tmp_path / "other", "A: fourth")))
    assert value() == "fourth"
    auth.reread(settings())
    assert value() is None


async def test_job_goes_with_the_worker_s_header_and_never_with_a_client_s(tmp_path: Path) -> None:
    """The client's spelling does not matter; a worker without a header gets the client's, and not the secret."""
    path = written(tmp_path / "auth", f"X-Api-Key: {SECRET}")
    lines = b"x-api-key: mine\r\naccept: x-api-key: y\r\nX_API_KEY: mine\r\nx-api-key-2: 2\r\nx-api-key: again\r\n"
    request = Request(b"POST", b"/run_code", lines + b"content-length: 2\r\n\r\n", b"{}")
    async with ScriptedWorker() as guarded, ScriptedWorker() as other:
        auth = WorkerAuth.load(settings(workers=[{"url": guarded.url, "worker_auth": path}, other.url]))
        upstream = WorkerPool(TlsSettings(), auth)
        try:
            for worker in (guarded, other):
                await sent(upstream, worker.url, request, timeout_s=10)
        finally:
            upstream.close()
    (head,) = [job.head for job in guarded.jobs]
    assert head.count("api") + head.count("API") == 3
    assert f"x-api-key: {SECRET}\r\n" in head
    assert "accept: x-api-key: y\r\n" in head
    assert "x-api-key-2: 2\r\n" in head
    (head,) = [job.head for job in other.jobs]
    assert SECRET not in head
    assert lines.decode() in head


async def test_checks_go_with_the_header_and_repeat_nothing_of_it(tmp_path: Path) -> None:
    """A worker's echo of the header does not reach a log, and redirects to other hosts are not followed."""
    heads: list[str] = []
    status = b""

    async def echo(exchange: Exchange) -> None:
        heads.append(exchange.request.head)
        sent_by = exchange.request.headers["authorization"].encode()
        await exchange.raw(b"HTTP/1.1 %s\r\ncontent-length: %d\r\n\r\n%s" % (status, len(sent_by), sent_by))

    async with ScriptedWorker(script=echo, ping=echo) as worker, ScriptedWorker() as other:
        path = written(tmp_path / "auth", f"Authorization: Bearer {SECRET}")
        auth = WorkerAuth.load(settings(worker_auth=path))
        async with Probe(TlsSettings(), auth) as probe:
            for answer in (
                b"200 OK",
                b"401 Bearer " + SECRET.encode(),
                b"302 Found\r\nlocation: " + other.url.encode(),
                b"BAD " + SECRET.encode(),
            ):
                status = answer
                told = (await probe.ping(worker.url, HealthCheckSettings())).error
                failed = await probe.run_job(worker.url, 5)
                for error in (told, failed):
                    assert error is not None
                    assert SECRET not in error
                    assert SECRET[:8] not in error
    assert len(heads) == 8
    assert all(f"Bearer {SECRET}" in head for head in heads)
    assert other.connections == 0
