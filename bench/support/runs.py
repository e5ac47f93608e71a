"""Runs that share a fleet: each has many clients, and each job tells the worker its run.

A client sends its next job when the last one is answered, as trainers do. After a failure it waits a little and sends
another one, over a new connection.

`python -m bench.support.runs RUN JOBS LENGTH_S PATH PORT…` is a client that floods: it sends all jobs at once, a
connection each. At SIGTERM it prints its answers by status as JSON.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass

import uvloop

# Longer than any job: none is to end by its time limit.
_LIMIT_S = 60.0
# Lengths of jobs, over their mean. Jobs of one length would end at the same moments.
_SHORTEST, _LONGEST = 0.5, 1.5
# How often the clients of a run try again in sum, if all of them are refused.
_TRIES_A_SECOND = 500
# So many connections are opened at once: more would overrun the kernel's list of those that are not accepted yet.
_OPENED_AT_ONCE = 500
OK = 200
# The status of a job whose connection broke.
BROKEN = 0


@dataclass(frozen=True)
class Address:
    """Where a run's jobs go: ports of this host, in turn, and the path there."""

    ports: Sequence[int]
    path: str = "/run_code"


class Run:
    """The clients of one run, and what they have sent and got."""

    def __init__(self, name: str, address: Address, length_s: float) -> None:
        """`length_s` is the mean length of a job."""
        self.sent: dict[int, float] = {}  # when each job was sent, by its number
        self.statuses: Counter[int] = Counter()
        self._name = name
        self._address = address
        self._length_s = length_s
        self._pause_s = 0.0
        self._draw = random.Random(name)
        self._clients: set[asyncio.Task[None]] = set()
        self._opening = asyncio.Semaphore(_OPENED_AT_ONCE)

    def start(self, connections: int) -> None:
        """Have so many clients send job after job."""
        self._pause_s = connections / _TRIES_A_SECOND
        for _ in range(connections):
            self._add(self._keep_sending(self._port()))

    def send(self, jobs: int) -> None:
        """Send so many jobs, a connection each."""
        for _ in range(jobs):
            self._add(self._send_over_new(self._port()))

    async def end(self) -> None:
        """Wait until all clients have gone: those that send one job each."""
        await asyncio.gather(*self._clients)

    async def stop(self) -> None:
        """Hang up, whatever is under way."""
        clients = list(self._clients)
        for client in clients:
            client.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    def _add(self, client: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(client)
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    def _port(self) -> int:
        return self._address.ports[len(self._clients) % len(self._address.ports)]

    async def _keep_sending(self, port: int) -> None:
        while True:
            await self._send_over_new(port, then_more=True)
            await asyncio.sleep(self._pause_s * self._draw.uniform(_SHORTEST, _LONGEST))

    async def _send_over_new(self, port: int, *, then_more: bool = False) -> None:
        """Open a connection and send one job over it; or `then_more`, until one of them fails."""
        try:
            async with self._opening:
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            self.statuses[BROKEN] += 1
            return
        try:
            while True:
                writer.write(self._message())
                status = await _status(reader)
                self.statuses[status] += 1
                if status != OK or not then_more:
                    return
        except (OSError, asyncio.IncompleteReadError):
            self.statuses[BROKEN] += 1
        finally:
            writer.close()

    def _message(self) -> bytes:
        number = len(self.sent)
        self.sent[number] = time.monotonic()
        work_s = self._length_s * self._draw.uniform(_SHORTEST, _LONGEST)
        job = {"language": "python", "code": "print(1)\n" * 100, "compile_timeout": 0, "run_timeout": _LIMIT_S}
        body = json.dumps({**job, "work": work_s, "run": self._name, "number": number})
        lines = ("host: x", "content-type: application/json", f"content-length: {len(body)}")
        return "\r\n".join((f"POST {self._address.path} HTTP/1.1", *lines, "", body)).encode()


async def _status(reader: asyncio.StreamReader) -> int:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
    await (reader.readexactly(int(length)) if length else reader.read())
    return int(head.split()[1])


async def flood(run: Run, jobs: int) -> None:
    """Send all jobs at once. At SIGTERM, say what was answered."""
    # As if on another host: it takes no CPU from the routers.
    os.nice(19)
    is_to_end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, is_to_end.set)
    run.send(jobs)
    await is_to_end.wait()
    await run.stop()
    print(json.dumps(run.statuses), flush=True)


if __name__ == "__main__":
    name, jobs, length_s, path, *ports = sys.argv[1:]
    uvloop.run(flood(Run(name, Address([int(port) for port in ports], path), float(length_s)), int(jobs)))
