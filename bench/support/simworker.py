"""Simulated workers whose jobs share the cores: as on real workers, too many jobs at once make each other late.

A worker starts every job at once. Each of `n` jobs on `c` cores progresses at the rate min(1, c/n) (processor sharing).
If a job is not done within its run_timeout of wall time, the answer is 200 with TimeLimitExceeded, as from
SandboxFusion. If the job alone would have been in time, that is a false time limit. The simulation is driven by events,
so a job costs CPU only at its start and at its end.

`python -m bench.support.simworker COUNT CORES` runs COUNT workers in one process and prints their URLs as one line of
JSON. Each answers POST /run_code, where the job's `work` is the CPU-seconds that it takes, and `fails` says that its
code fails; GET /v1/ping; GET /stats; GET /log, which lists the jobs that have ended and name their `run`; and DELETE
/stats, which resets counts and log. Signals change the first worker: at DIE it ends with all its jobs and connections,
at SLOW it becomes three times slower, at RECOVER it is as at the start.
"""

import asyncio
import heapq
import itertools
import json
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, cast

import httptools

DIE, SLOW, RECOVER = signal.SIGUSR1, signal.SIGHUP, signal.SIGUSR2
SLOW_SPEED = 1 / 3
# Sums of floating-point numbers are not exact: a job that is this close to its end has ended.
_EPSILON_S = 1e-9


@dataclass
class Stats:
    """The counts of one worker."""

    jobs: int = 0
    most_at_once: int = 0
    false_time_limits: int = 0


@dataclass(slots=True, eq=False)
class _Job:
    done: Callable[[bool], None]  # called with True if the job ended in time
    would_be_in_time: bool  # alone on the worker: if so, a time limit is false
    limit: asyncio.TimerHandle | None = None
    is_over: bool = False


class SharedCores:
    """One worker's cores and the jobs on them."""

    def __init__(self, cores: int) -> None:
        self.stats = Stats()
        # Run, number, start, end (both by the host's monotonic clock) and work of each job that has ended.
        self.log: list[tuple[str, int, float, float, float]] = []
        self._cores = cores
        self._speed = 1.0
        self._at_once = 0
        self._numbers = itertools.count()
        # All jobs progress at the same rate, so one sum is enough: the CPU-seconds of a job that runs since the start.
        self._progress_s = 0.0
        self._as_of = time.monotonic()
        self._by_end: list[tuple[float, int, _Job]] = []  # heap: the progress at which the job is done
        self._timer: asyncio.TimerHandle | None = None

    def run(self, work_s: float, limit_s: float, done: Callable[[bool], None]) -> None:
        """Start a job now."""
        self._advance()
        job = _Job(done, work_s <= limit_s)
        job.limit = asyncio.get_running_loop().call_later(limit_s, self._cut_off, job)
        heapq.heappush(self._by_end, (self._progress_s + work_s, next(self._numbers), job))
        self._at_once += 1
        self.stats.jobs += 1
        self.stats.most_at_once = max(self.stats.most_at_once, self._at_once)
        self._wake_at_next_end()

    def go_on_at(self, speed: float) -> None:
        """Set the speed of each core. `work_s` counts in seconds at the usual speed, 1."""
        self._advance()
        self._speed = speed
        self._wake_at_next_end()

    def drop_jobs(self) -> None:
        """Drop all running jobs without an answer."""
        for _, _, job in self._by_end:
            if not job.is_over:
                self._forget(job)
        self._wake_at_next_end()

    def _rate(self) -> float:
        return self._speed * min(1.0, self._cores / max(1, self._at_once))

    def _advance(self) -> None:
        now = time.monotonic()
        self._progress_s += (now - self._as_of) * self._rate()
        self._as_of = now

    def _wake_at_next_end(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None
        while self._by_end and self._by_end[0][2].is_over:
            heapq.heappop(self._by_end)
        if self._by_end:
            delay_s = (self._by_end[0][0] - self._progress_s) / self._rate()
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._finish)

    def _finish(self) -> None:
        self._advance()
        while self._by_end and self._by_end[0][0] <= self._progress_s + _EPSILON_S:
            job = heapq.heappop(self._by_end)[2]
            if not job.is_over:
                self._end(job, in_time=True)
        self._wake_at_next_end()

    def _cut_off(self, job: _Job) -> None:
        self._advance()
        self.stats.false_time_limits += job.would_be_in_time
        self._end(job, in_time=False)
        self._wake_at_next_end()

    def _end(self, job: _Job, *, in_time: bool) -> None:
        self._forget(job)
        job.done(in_time)

    def _forget(self, job: _Job) -> None:
        job.is_over = True
        if job.limit:
            job.limit.cancel()
        self._at_once -= 1


class _Connection(asyncio.Protocol):
    """An HTTP/1.1 connection, one request at a time. A job goes on when its client has left."""

    def __init__(self, cores: SharedCores, open_connections: set["_Connection"]) -> None:
        self._cores = cores
        self._open = open_connections
        self._parser = httptools.HttpRequestParser(self)
        self._target = b""
        self._body: list[bytes] = []
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # TCP gives nothing else
        self._open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  (asyncio's signature)
        self._open.discard(self)

    def abort(self) -> None:
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        target, body = self._target, b"".join(self._body)
        self._target, self._body = b"", []
        match self._parser.get_method(), target:
            case b"POST", b"/run_code":
                job = json.loads(body)
                self._cores.run(job["work"], job["run_timeout"], partial(self._answer_job, job, time.monotonic()))
            case b"DELETE", b"/stats":
                self._cores.stats = Stats()
                self._cores.log = []
                self._answer({})
            case _, b"/log":
                self._answer({"jobs": self._cores.log})
            case _, b"/stats":
                self._answer(asdict(self._cores.stats))
            case _:
                self._answer("pong")

    def _answer_job(self, job: dict[str, Any], start_s: float, in_time: bool) -> None:
        if run := job.get("run"):
            self._cores.log.append((run, job["number"], start_s, time.monotonic(), job["work"]))
        status = "Finished" if in_time else "TimeLimitExceeded"
        fails = bool(job.get("fails"))
        result = {"status": status, "return_code": int(fails) if in_time else None, "stdout": "1\n", "stderr": ""}
        is_well = in_time and not fails
        self._answer({"status": "Success" if is_well else "Failed", "message": "", "run_result": result})

    def _answer(self, value: Any) -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        if not self._transport.is_closing():
            self._transport.write(head.encode() + body)


class Worker:
    """A worker on a port of its own. It keeps the port when it dies."""

    def __init__(self, cores: int) -> None:
        self.port = 0
        self._cores = SharedCores(cores)
        self._open: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen, unless it already does."""
        if self._server is None:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: _Connection(self._cores, self._open), "127.0.0.1", self.port
            )
            self.port = self._server.sockets[0].getsockname()[1]

    def die(self) -> None:
        """Close all connections and drop all jobs at once."""
        if self._server:
            self._server.close()
            self._server = None
        for connection in list(self._open):
            connection.abort()
        self._cores.drop_jobs()

    def slow_down(self) -> None:
        """Become three times slower."""
        self._cores.go_on_at(SLOW_SPEED)

    async def recover(self) -> None:
        """Become as at the start: usual speed, and listening."""
        self._cores.go_on_at(1.0)
        await self.start()


async def serve(count: int, cores: int) -> None:
    """Run `count` workers on free ports until killed."""
    loop = asyncio.get_running_loop()
    workers = [Worker(cores) for _ in range(count)]
    for worker in workers:
        await worker.start()
    is_to_recover = asyncio.Event()
    loop.add_signal_handler(DIE, workers[0].die)
    loop.add_signal_handler(SLOW, workers[0].slow_down)
    loop.add_signal_handler(RECOVER, is_to_recover.set)
    print(json.dumps([f"http://127.0.0.1:{worker.port}" for worker in workers]), flush=True)
    while True:
        await is_to_recover.wait()
        is_to_recover.clear()
        await workers[0].recover()


if __name__ == "__main__":
    asyncio.run(serve(*map(int, sys.argv[1:3])))
