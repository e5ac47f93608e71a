"""How programs of this project start, signal and end other programs, and find free ports."""

import asyncio
import ctypes
import os
import random
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
_POLL_S = 0.05
# timeout(1) and some launchers send a signal to a program and to its group. Two so close to each other count as one.
ONE_SIGNAL_S = 0.2
# Outgoing connections use ports from 32768 up (Linux; elsewhere from 49152). Such a connection could take a free port
# before the server that we chose it for listens on it.
NOT_EPHEMERAL = range(10_000, 32_768)
# Loaded here, because a child may import nothing between fork and exec.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent(with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this process `with_signal` when its parent dies. Call it in the child, after the fork.

    Linux only; elsewhere it does nothing.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, with_signal)


async def start_session(argv: Sequence[str], env: Mapping[str, str]) -> Process:
    """Start a program in a session of its own, which ends with this process. Raises OSError if it cannot be executed.

    A terminal's Ctrl-C does not reach the program, so this process decides in which order programs end.
    """
    return await asyncio.create_subprocess_exec(
        *argv, env=env, stdin=DEVNULL, start_new_session=True, preexec_fn=die_with_parent
    )


def signal_group(process: Process, number: int) -> bool:
    """Send a signal to the process group that `process` leads; return whether the group has any member.

    Signal 0 sends nothing and only asks.
    """
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


async def end_group(process: Process, within_s: float, *, whole: bool) -> bool:
    """End a program and its process group; return whether they had to be killed after `within_s` seconds.

    With `whole`, SIGTERM goes to every process of the group, and all have `within_s` seconds. Otherwise SIGTERM goes to
    the program alone, which is expected to end its children; any that are left when it has ended are killed.
    """
    clock = asyncio.get_running_loop().time
    give_up_at = clock() + within_s
    if whole:
        signal_group(process, signal.SIGTERM)
    else:
        with suppress(ProcessLookupError):
            process.terminate()
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), within_s)
    while whole and signal_group(process, 0) and clock() < give_up_at:  # noqa: ASYNC110  (the kernel sends no event)
        await asyncio.sleep(_POLL_S)
    is_late = signal_group(process, 0) if whole else process.returncode is None
    signal_group(process, signal.SIGKILL)
    await process.wait()
    return is_late


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 on which nothing listens at this moment."""
    while not is_free("127.0.0.1", port := random.choice(NOT_EPHEMERAL)):
        pass
    return port


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen on this address."""
    try:
        with socket.create_server((host, port)):
            return True
    except OSError:
        return False


async def accepts(port: int) -> bool:
    """Whether a server accepts connections on this port of 127.0.0.1."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
