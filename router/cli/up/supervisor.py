"""Keeps a set of programs running: starts them in order, restarts those that end, stops them in reverse order."""

import asyncio
import logging
import signal
from asyncio.subprocess import Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from router.processes import end_group, signal_group, start_session

log = logging.getLogger(__name__)

# The pause before a restart doubles while a program ends at once, up to the longest.
_LONGEST_PAUSE_S = 10.0
_FIRST_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Program:
    """What to run. `env` is its whole environment; after SIGTERM it has `stop_timeout_s` seconds to end."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    stop_timeout_s: float = 10.0


class Supervisor:
    """Runs programs until `stop`."""

    def __init__(self) -> None:
        self._kept: list[tuple[Program, asyncio.Task[None]]] = []
        self._running: dict[str, Process] = {}

    async def start(self, program: Program) -> None:
        """Start `program` and keep it running. Raises OSError if it cannot be executed."""
        process = await self._spawn(program)
        self._kept.append((program, asyncio.create_task(self._keep(program, process))))

    def is_running(self, name: str) -> bool:
        """Whether the program of this name runs at this moment."""
        return name in self._running

    async def stop(self) -> None:
        """Stop all programs, the last started first: with SIGTERM, and SIGKILL for what is left of each."""
        while self._kept:
            program, keeper = self._kept.pop()
            keeper.cancel()
            with suppress(asyncio.CancelledError):
                await keeper
            process = self._running.pop(program.name, None)
            # SIGTERM to the program alone: gunicorn's master ends its own processes.
            if process and await end_group(process, program.stop_timeout_s, whole=False):
                log.warning("%s did not end within %g s and is killed", program.name, program.stop_timeout_s)

    def kill(self) -> None:
        """Kill all programs at once, and start none again: for the second Ctrl-C."""
        for _, keeper in self._kept:
            keeper.cancel()
        for process in self._running.values():
            signal_group(process, signal.SIGKILL)

    async def _keep(self, program: Program, process: Process) -> None:
        pause_s = _FIRST_PAUSE_S
        clock = asyncio.get_running_loop().time
        while True:
            started_at = clock()
            status = await process.wait()
            del self._running[program.name]
            signal_group(process, signal.SIGKILL)  # children that it may have left
            pause_s = _FIRST_PAUSE_S if clock() - started_at > _LONGEST_PAUSE_S else min(2 * pause_s, _LONGEST_PAUSE_S)
            log.warning("%s ended with status %d; it is started again in %g s", program.name, status, pause_s)
            await asyncio.sleep(pause_s)
            process = await self._spawn(program)
            log.info("%s started again", program.name)

    async def _spawn(self, program: Program) -> Process:
        process = self._running[program.name] = await start_session(program.argv, program.env)
        return process
