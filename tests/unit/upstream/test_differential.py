"""Our reading of a worker's answer against that of aiohttp's client: the same bytes, and the same (status, body).

Hypothesis writes the answers, right and wrong, cuts them at any place and closes or resets the connection at their end.
Where we refuse what aiohttp takes, STRICTER says so and why; what aiohttp refuses, we refuse.
"""

import asyncio
import itertools
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.config.settings import TlsSettings
from router.http.response import Phase, UpstreamFailed
from router.upstream.connection import HOLD_BYTES
from router.upstream.pool import Request, WorkerPool
from tests.support.eventually import sent
from tests.support.worker import Exchange, ScriptedWorker

OK = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"content-length: 2\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
REQUEST = Request(b"POST", b"/run_code", b"content-length: 2\r\n\r\n", b"{}")
NEXT = Request(b"POST", b"/next", b"content-length: 2\r\n\r\n", b"{}")
LIMIT_S = 10.0
# aiohttp hangs on some chunks that it refuses. That is waited for only where we have refused, too.
HANG_S = 0.2
SHOWN = 300
STEADY = settings(max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@dataclass(frozen=True)
class Sent:
    """A worker's bytes, their parts, and the end of its connection."""

    parts: tuple[bytes, ...]
    end: str = "close"

    def __repr__(self) -> str:
        return f"Sent({tuple(part[:SHOWN] for part in self.parts)}, {self.end})"

    @property
    def text(self) -> bytes:
        """All bytes."""
        return b"".join(self.parts)

    async def __call__(self, exchange: Exchange) -> None:
        """Send the parts, each after the other side has read the one before."""
        with suppress(OSError):  # a client that refuses an answer does not read it to its end
            for part in self.parts:
                await exchange.raw(part)
                await turns()
            if self.end == "close":
                exchange.close()
            elif self.end == "reset":
                exchange.reset()


@dataclass(frozen=True)
class Stricter:
    """A form that aiohttp accepts and we refuse: an example, how to recognise it, and the reason."""

    answer: bytes
    pattern: bytes
    reason: str
    end: str = "close"

    def explains(self, sent: Sent) -> bool:
        """Whether an answer has this form."""
        return self.end in ("close", sent.end) and re.search(self.pattern, sent.text, re.IGNORECASE) is not None


STRICTER = {
    "bare LF": Stricter(
        OK.replace(b"\r", b"") + b"content-length: 2\n\nok",
        rb"(?<!\r)\n",
        "RFC 9112 §2.2 allows it, and two readers may then see two headers in one: an answer that may be smuggled",
    ),
    "obs-fold": Stricter(
        OK + b"x: a\r\n b\r\n" + LENGTH + b"\r\nok",
        rb"\n[ \t]",
        "RFC 9112 §5.2: a field over two lines is obsolete, and its value not what one line says",
    ),
    "control character in a field": Stricter(
        OK + b"x: a\x01b\r\n" + LENGTH + b"\r\nok",
        rb"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]",
        "RFC 9110 §5.5: not allowed, and uvicorn would not pass it on",
    ),
    "space after a chunk's size": Stricter(
        OK + CHUNKED + b"\r\n2 \r\nok\r\n0\r\n\r\n",
        rb"[0-9a-f][ \t]+(\r|;)",
        "RFC 9112 §7.1 has none there",
    ),
    "another transfer encoding": Stricter(
        OK + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        rb"transfer-encoding:(?!\s*chunked\s*\r\n)",
        "nobody asked for it, and the client would not be told how to read the body",
    ),
    "upgrade": Stricter(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        rb"HTTP/\d\.\d 101",
        "nobody asked for it",
    ),
    "another protocol": Stricter(
        b"RTSP/1.0 200 OK\r\n" + LENGTH + b"\r\nok",
        rb"(RTSP|ICE)/\d\.\d \d\d\d",
        "what is no HTTP need not be framed like it",
    ),
    "another version": Stricter(
        b"HTTP/2.0 200 OK\r\n" + LENGTH + b"\r\nok",
        rb"HTTP/(?!1\.[01])\d\.\d \d\d\d",
        "RFC 9112 §2.3: another major version is another protocol",
    ),
    "chunked twice": Stricter(
        OK + CHUNKED + CHUNKED + b"\r\n2\r\nok\r\n0\r\n\r\n",
        rb"(?s)transfer-encoding:.*transfer-encoding:",
        "RFC 9112 §6.1: chunked is applied once at most",
    ),
    "status above 599": Stricter(
        b"HTTP/1.1 999 X\r\n" + LENGTH + b"\r\nok",
        rb"HTTP/\d\.\d [6-9]\d\d",
        "RFC 9110 §15: no status, and no server would pass it on",
    ),
    "status below 100": Stricter(
        b"HTTP/1.1 099 X\r\n" + LENGTH + b"\r\nok",
        rb"HTTP/\d\.\d 0\d\d",
        "RFC 9110 §15: no status, and nothing to pass on",
    ),
    "reset as the end": Stricter(
        OK + b"\r\nok",
        rb"^(?!.*content-length)(?!.*chunked)",
        "an answer without a length ends with the connection's end; a reset says that it was broken off",
        end="reset",
    ),
}

# No byte of these bodies can look like one of the forms above.
bodies = st.text('abcxyz{}":', max_size=40).map(str.encode) | st.sampled_from(
    [b"x" * 70_000, b"x" * HOLD_BYTES, b"y" * (HOLD_BYTES + 1), b"z" * 1_500_000]
)
fields = st.lists(
    st.sampled_from(
        [
            b"content-type: application/json",
            b"X-Empty:",
            b"x-a: b",
            b"x-a:\t c ",
            b"x-latin: \xe4\xff",
            b"connection: close",
            b"Connection: keep-alive",
            b"connection: upgrade\r\nupgrade: h2c",
            b"set-cookie: a=b; path=/",
            b"trailer: x-t",
        ]
    ),
    max_size=3,
)
interims = st.lists(
    st.sampled_from(
        [
            b"HTTP/1.1 100 Continue\r\n\r\n",
            b"HTTP/1.1 102 Processing\r\ncontent-length: 0\r\n\r\n",
            b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n",
            b"HTTP/1.1 199 X\r\ncontent-length: 3\r\n\r\nabc",
        ]
    ),
    max_size=2,
)
flips = st.sampled_from([b"\n", b"\r", b"\x00", b" ", b"9", b"\xff", b":"])
surpluses = st.sampled_from([b"x", b"\r\n", b"HTTP/1.1 ", OK + LENGTH + b"\r\nno", b"{}"])


def mostly(usual: list[bytes], odd: list[bytes]) -> st.SearchStrategy[bytes]:
    """Return a strategy for `usual`, and rarely for `odd`."""
    return st.integers(0, 40).flatmap(lambda number: st.sampled_from(usual if number else odd))


versions = mostly([b"1.1", b"1.1", b"1.0"], [b"1.2", b"2.0", b"x"])
statuses = mostly([b"200", b"200", b"204", b"304", b"404", b"422", b"500"], [b"099", b"1000", b"2x0", b"101"])
odd_fields = mostly(
    [b""], [b"x: a\r\n b", b"no colon", b": no name", b"x : a", b"x: \x00", b"x: \x01", b"x\xe4: a", b" x: a"]
)
framings = mostly([b"length", b"chunked", b"none"], [b"both", b"two lengths"])
lengths = mostly([b"%d"], [b"", b"+%d", b"%d, %d", b"0x%d", b"-%d", b"%d" + b"9" * 30, b"1%d"])
codings = mostly([b"chunked", b"Chunked", b"chunked "], [b"gzip", b"gzip, chunked", b"identity", b"chunked, gzip"])
sizes = mostly([b"%x", b"00%x", b"%x;a=b", b'%x;a="b"'], [b"%x ", b"+%x", b"0x%x", b"z%x", b""])
trailers = mostly([b"", b"x-t: 1\r\n", b"content-length: 9\r\n"], [b"x-t: 1\r\n 2\r\n", b"bad\r\n", b"x: 1\n"])
mistakes = mostly([b"none"] * 5 + [b"cut"], [b"flip", b"surplus", b"garbage"])


@st.composite
def chunks(draw: st.DrawFn, body: bytes) -> bytes:
    """Return `body` in chunks, valid or not."""
    places = sorted(draw(st.lists(st.integers(0, len(body)), max_size=3)))
    parts = [body[start:end] for start, end in zip([0, *places], [*places, len(body)], strict=True)]
    text = b"".join(draw(sizes).replace(b"%x", b"%x" % len(part)) + b"\r\n" + part + b"\r\n" for part in parts if part)
    return text + b"0\r\n" + draw(trailers) + b"\r\n"


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    """A complete answer with its interim ones before it."""
    body, framing, lines = draw(bodies), draw(framings), draw(fields)
    lines += [field for field in [draw(odd_fields)] if field]
    if framing in (b"length", b"both", b"two lengths"):
        lines.append(b"Content-Length: " + draw(lengths).replace(b"%d", b"%d" % len(body)))
    if framing == b"two lengths":
        lines.append(b"content-length: %d" % (len(body) + draw(st.integers(0, 1))))
    if framing in (b"chunked", b"both"):
        lines.append(b"transfer-encoding: " + draw(codings))
        body = draw(chunks(body))
    start = b"HTTP/" + draw(versions) + b" " + draw(statuses) + b" X"
    return b"".join(draw(interims)) + b"\r\n".join([start, *draw(st.permutations(lines)), b"", body])


@st.composite
def sendings(draw: st.DrawFn) -> Sent:
    """An answer, complete or not, with the way it is sent."""
    text = draw(messages())
    mistake = draw(mistakes)
    place = draw(st.integers(0, min(len(text), 300)))
    # How much of a large answer one read returns is chance, and so is what a reset or surplus bytes destroy.
    is_small = len(text) < 10_000
    if mistake == b"cut":
        text = text[:place]
    elif mistake == b"flip":
        text = text[:place] + draw(flips) + text[place + 1 :]
    elif mistake == b"surplus" and is_small:
        text += draw(surpluses)
    elif mistake == b"garbage":
        text = draw(st.binary(max_size=60))
    end = draw(st.sampled_from(["close", "reset"])) if is_small else "close"
    return Sent(cut(text, draw(st.lists(st.integers(0, len(text)), max_size=5))), end)


def cut(text: bytes, places: list[int]) -> tuple[bytes, ...]:
    """Return `text` in parts."""
    edges = [0, *sorted(places), len(text)]
    return tuple(text[start:end] for start, end in itertools.pairwise(edges) if start < end)


async def turns() -> None:
    """Let all tasks that are ready run."""
    for _ in range(4):
        await asyncio.sleep(0)


async def ours(upstream: WorkerPool, url: str, request: Request = REQUEST) -> tuple[int, bytes] | None:
    """Return our reading of the answer, or None if we refuse it."""
    try:
        response = await sent(upstream, url, request, LIMIT_S)
        rest = [part async for part in response.rest] if response.rest else []
    except UpstreamFailed as failure:
        if failure.phase is Phase.TIMED_OUT:
            raise
        return None
    return response.head.status, response.body + b"".join(rest)


async def theirs(url: str, limit_s: float = LIMIT_S) -> tuple[int, bytes] | None:
    """Return aiohttp's reading of the answer, or None if aiohttp refuses it."""
    limit = aiohttp.ClientTimeout(limit_s)
    async with aiohttp.ClientSession(auto_decompress=False, timeout=limit) as session:
        try:
            async with session.post(url, data=b"{}", allow_redirects=False) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError):
            return None


async def both(sent: Sent) -> tuple[tuple[int, bytes] | None, tuple[int, bytes] | None]:
    """Return our reading and aiohttp's."""
    upstream = WorkerPool(TlsSettings())
    async with ScriptedWorker(sent) as worker:
        mine = await ours(upstream, worker.url)
        aiohttps = await theirs(worker.url, HANG_S if mine is None else LIMIT_S)
    upstream.close()
    return mine, aiohttps


def test_every_answer_is_read_as_aiohttp_reads_it_or_refused_for_a_reason() -> None:
    """Both read the same, or both refuse, or STRICTER says why we refuse; we never accept what aiohttp refuses."""

    @STEADY
    @given(sendings())
    def agrees(sent: Sent) -> None:
        mine, aiohttps = runner.run(both(sent))
        if mine != aiohttps:
            assert mine is None
            assert any(form.explains(sent) for form in STRICTER.values())

    with asyncio.Runner() as runner:
        agrees()


@pytest.mark.parametrize("name", STRICTER)
async def test_each_stricter_form_is_accepted_by_aiohttp(name: str) -> None:
    """Each row of the table is a real difference."""
    form = STRICTER[name]
    sent = Sent((form.answer,), form.end)
    mine, aiohttps = await both(sent)
    assert mine is None
    assert aiohttps is not None
    assert form.explains(sent)


def test_surplus_never_reaches_the_next_answer() -> None:
    """Bytes after a complete answer, at any moment, never become the next request's answer."""
    surplus = st.sampled_from([b"x", b"\r\n", b"garbage\r\n\r\n", b"{}", b"HT", b"0\r\n\r\n", b'{"a": 1}' * 9000])
    texts = st.sampled_from([OK + LENGTH + b"\r\nok", OK + CHUNKED + b"\r\n2\r\nok\r\n0\r\n\r\n"])

    @STEADY
    @given(texts, surplus, st.lists(st.integers(0, 80), max_size=3), st.booleans())
    def holds(text: bytes, more: bytes, places: list[int], is_patient: bool) -> None:
        sent = Sent(cut(text + more, [min(place, len(text + more)) for place in places]), end="stay")
        first, second = runner.run(two(sent, turns if is_patient else None))
        assert first in ((200, b"ok"), None)
        assert second == (200, b"own") or (second is None and not is_patient)

    with asyncio.Runner() as runner:
        holds()


async def two(sent: Sent, pause: Callable[[], object] | None) -> tuple[tuple[int, bytes] | None, ...]:
    """Return our reading of the answer, and of the answer to the next request."""

    async def script(exchange: Exchange) -> None:
        if exchange.request.target == "/next":
            await exchange.answer(200, b"own")
        else:
            await sent(exchange)

    upstream = WorkerPool(TlsSettings())
    async with ScriptedWorker(script) as worker:
        first = await ours(upstream, worker.url)
        if pause:
            for _ in range(len(sent.parts) + 1):
                await turns()
        second = await ours(upstream, worker.url, NEXT)
    upstream.close()
    return first, second
