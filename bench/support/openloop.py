"""An open loop: jobs are due at random moments with a fixed mean rate, whether or not earlier jobs are answered.

Latency counts from the moment at which a job was due, so neither a slow proxy nor a late generator hides any. Each job
takes an idle connection. If there is none, it opens a new one.

`python -m bench.support.openloop PORT TARGET REQUEST_BYTES RATE SECONDS RECONNECTS` prints one line of JSON.
"""

import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Sequence
from typing import cast

import httptools
import uvloop

from bench.support.report import percentile

# All proxies get the same arrivals.
_SEED = 1
# How long to wait for the last answers. Later answers are errors.
_END_S = 10.0
# An interval of zero would stop the timer.
_LEAST_S = 1e-6


class _Connection(asyncio.Protocol):
    """One connection, one job at a time."""

    def __init__(self, loop: "OpenLoop", due: float) -> None:
        self._loop = loop
        self._due: float | None = due  # when the job under way was due
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # TCP gives nothing else
        assert self._due is not None
        self.send(self._due)

    def send(self, due: float) -> None:
        self._due = due
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(self._loop.message)

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        assert self._due is not None
        due, self._due = self._due, None
        self._loop.answered(due, is_right=self._parser.get_status_code() == 200)
        if self._loop.reconnects:
            self._transport.close()
        else:
            self._loop.idle.append(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        if self._due is not None:
            self._loop.answered(self._due, is_right=False)
        elif self in self._loop.idle:
            self._loop.idle.remove(self)


class OpenLoop:
    """One run. `seconds` has the latency of each job that was answered."""

    def __init__(self, port: int, message: bytes, arrivals: Sequence[float], *, reconnects: bool) -> None:
        self.message = message
        self.reconnects = reconnects
        self.idle: list[_Connection] = []
        self.seconds: list[float] = []
        self.errors = 0
        self._port = port
        self._arrivals = arrivals
        self._sent = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._is_done = asyncio.Event()

    async def run(self) -> None:
        """Send all jobs, and wait for the answers."""
        # Timers of event loops are exact to a millisecond, which is longer than an answer takes. The kernel's are exact
        # to a microsecond.
        asyncio.get_running_loop().add_signal_handler(signal.SIGALRM, self._send_due)
        start = time.monotonic()
        self._arrivals = [start + arrival for arrival in self._arrivals]
        self._send_due()
        try:
            async with asyncio.timeout(self._arrivals[-1] - start + _END_S):
                await self._is_done.wait()
        except TimeoutError:
            self.errors = len(self._arrivals) - len(self.seconds)

    def answered(self, due: float, *, is_right: bool) -> None:
        """Count an answer."""
        if is_right:
            self.seconds.append(time.monotonic() - due)
        else:
            self.errors += 1
        if len(self.seconds) + self.errors == len(self._arrivals):
            self._is_done.set()

    def _send_due(self) -> None:
        while self._sent < len(self._arrivals):
            due = self._arrivals[self._sent]
            wait_s = due - time.monotonic()
            if wait_s > 0:
                signal.setitimer(signal.ITIMER_REAL, max(wait_s, _LEAST_S))
                return
            self._sent += 1
            if self.idle:
                self.idle.pop().send(due)
            else:
                opening = asyncio.ensure_future(self._open(due))
                self._opening.add(opening)
                opening.add_done_callback(self._opening.discard)

    async def _open(self, due: float) -> None:
        try:
            await asyncio.get_running_loop().create_connection(lambda: _Connection(self, due), "127.0.0.1", self._port)
        except OSError:
            self.answered(due, is_right=False)


def arrivals(rate: float, seconds: float) -> list[float]:
    """Return when jobs are due, in seconds from the start: a Poisson process.

    >>> [round(arrival, 1) for arrival in arrivals(2, 1)]
    [0.1]
    """
    draw = random.Random(_SEED)
    found: list[float] = []
    moment = draw.expovariate(rate)
    while moment < seconds:
        found.append(moment)
        moment += draw.expovariate(rate)
    return found


async def main(port: int, target: str, request_bytes: int, rate: float, seconds: float, reconnects: int) -> None:
    """Run once, and print the outcome."""
    body = json.dumps({"language": "python", "code": "x" * (request_bytes - 40)})
    lines = ("host: 127.0.0.1", "content-type: application/json", f"content-length: {len(body)}")
    closing = ("connection: close",) if reconnects else ()
    message = "\r\n".join((f"POST {target} HTTP/1.1", *lines, *closing, "", body)).encode()
    loop = OpenLoop(port, message, arrivals(rate, seconds), reconnects=bool(reconnects))
    await loop.run()
    latencies = loop.seconds or [float("nan")]
    found = {"requests": len(loop.seconds), "seconds": seconds, "errors": loop.errors}
    found |= {f"p{percent}_ms": percentile(latencies, percent) * 1e3 for percent in (50, 99)}
    print(json.dumps(found))


if __name__ == "__main__":
    port, target, request_bytes, rate, seconds, reconnects = sys.argv[1:]
    uvloop.run(main(int(port), target, int(request_bytes), float(rate), float(seconds), int(reconnects)))
