"""The reason of a failed connection has the same text on every version of Python."""

import ssl

import pytest

from router.config.settings import HealthCheckSettings, TlsSettings
from router.http.reasons import reason
from router.http.response import UpstreamFailed
from router.upstream.pool import Request, WorkerPool
from sidecar.probe import Probe
from tests.support.eventually import sent

NO_NAME = "cannot be reached: its host cannot be a name in DNS"


@pytest.mark.parametrize("host", ["no..name", "x" * 64])
async def test_impossible_host_has_our_own_message(host: str) -> None:
    """Python's codec for such names has had three messages from 3.11 to 3.13."""
    url = f"http://{host}:80"
    with pytest.raises(UpstreamFailed) as caught:
        await sent(WorkerPool(TlsSettings()), url, Request(b"GET", b"/", b"\r\n", b""), timeout_s=5)
    assert caught.value.cause == NO_NAME
    async with Probe(TlsSettings()) as probe:
        assert (await probe.ping(url, HealthCheckSettings())).error == NO_NAME


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (UnicodeError("label empty or too long"), "its host cannot be a name in DNS"),
        (UnicodeEncodeError("idna", "a..b", 2, 3, "label empty"), "its host cannot be a name in DNS"),
        (ConnectionRefusedError(111, "Connect call failed ('127.0.0.1', 1)"), "Connection refused"),
        (OSError("Multiple exceptions: one, two"), "Multiple exceptions: one, two"),
        (TimeoutError(), "TimeoutError"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number (_ssl.c:1006)"), "wrong version number"),
        (ssl.SSLError(1, "[SSL] unknown error (_ssl.c:1020)"), "unknown error"),
        (ssl.SSLError(1, "plain words"), "plain words"),
    ],
)
def test_reason_names_no_line_of_the_interpreter(error: Exception, told: str) -> None:
    """The reason names neither a line of the interpreter nor a TLS error number as if it were the system's."""
    assert reason(error) == told
