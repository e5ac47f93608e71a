"""What the programs that start other programs share: no child outlives its parent, no port is taken twice."""

import asyncio
import ctypes
import random
import signal
import socket
import sys

_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>
# Outgoing connections have ports from 32768 on (Linux; elsewhere from 49152): one could take a port that was free a
# moment ago, before its server listens.
NOT_EPHEMERAL = range(10_000, 32_768)
# Loaded here, because between fork and exec nothing may be imported.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with_parent(with_signal: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel send this process `with_signal` when its parent dies; called in the child, after the fork.

    Linux only; elsewhere it does nothing.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, with_signal)


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that nobody listens on at this moment."""
    while not is_free("127.0.0.1", port := random.choice(NOT_EPHEMERAL)):
        pass
    return port


def is_free(host: str, port: int) -> bool:
    """Whether a server could listen there."""
    try:
        with socket.create_server((host, port)):
            return True
    except OSError:
        return False


async def accepts(port: int) -> bool:
    """Whether a server on 127.0.0.1 accepts connections there."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
