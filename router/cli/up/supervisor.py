"""Keeps a set of programs running: starts them in order, starts again what dies, stops all in reverse order.

Each program runs in a session of its own, so that a Ctrl-C reaches this process alone and the order of the end is ours.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from router.processes import die_with_parent

log = logging.getLogger(__name__)

# A program that dies at once every time is started again ever more slowly, up to this.
_LONGEST_PAUSE_S = 10.0
_FIRST_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Program:
    """What to run; `env` is all of its environment. `stop_timeout_s`: how long it may take to end when told to."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    stop_timeout_s: float = 10.0


class Supervisor:
    """Runs programs until `stop`."""

    def __init__(self) -> None:
        self._kept: list[tuple[Program, asyncio.Task[None]]] = []
        self._running: dict[str, asyncio.subprocess.Process] = {}

    async def start(self, program: Program) -> None:
        """Start `program` and keep it running. Raises OSError where it cannot be executed."""
        process = await self._spawn(program)
        self._kept.append((program, asyncio.create_task(self._keep(program, process))))

    def is_running(self, name: str) -> bool:
        """Whether the program of this name runs at this moment."""
        return name in self._running

    async def stop(self) -> None:
        """Stop all, the last started first; each with SIGTERM, then what is left of it with SIGKILL."""
        while self._kept:
            program, keeper = self._kept.pop()
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            if process := self._running.pop(program.name, None):
                await _end(program, process)

    def kill(self) -> None:
        """End all at once: for the second Ctrl-C."""
        for process in self._running.values():
            _signal_group(process, signal.SIGKILL)

    async def _keep(self, program: Program, process: asyncio.subprocess.Process) -> None:
        pause_s = _FIRST_PAUSE_S
        clock = asyncio.get_running_loop().time
        while True:
            started_at = clock()
            status = await process.wait()
            del self._running[program.name]
            _signal_group(process, signal.SIGKILL)  # its own children, where it left any
            pause_s = _FIRST_PAUSE_S if clock() - started_at > _LONGEST_PAUSE_S else min(2 * pause_s, _LONGEST_PAUSE_S)
            log.warning("%s ended with status %d; it is started again in %g s", program.name, status, pause_s)
            await asyncio.sleep(pause_s)
            process = await self._spawn(program)
            log.info("%s started again", program.name)

    async def _spawn(self, program: Program) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *program.argv,
            env=program.env,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        self._running[program.name] = process
        return process


async def _end(program: Program, process: asyncio.subprocess.Process) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), program.stop_timeout_s)
    except TimeoutError:
        log.warning("%s did not end within %g s and is killed", program.name, program.stop_timeout_s)
    _signal_group(process, signal.SIGKILL)
    await process.wait()


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
