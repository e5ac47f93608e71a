"""Lets each of gunicorn's processes count the connections that it accepts: one byte each, in a file of its own."""

import asyncio
import os
from pathlib import Path
from typing import ClassVar

from router.downstream.connection import ClientConnection
from router.downstream.gunicorn_worker import RouterWorker

_FOLDER = "BENCH_COUNTS"


class CountingConnection(ClientConnection):
    """A client's connection that counts itself."""

    _file: ClassVar[int] = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count this connection, and go on as usual."""
        if self._file < 0:
            path = Path(os.environ[_FOLDER]) / str(os.getpid())
            CountingConnection._file = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.write(self._file, b".")
        super().connection_made(transport)


class CountingWorker(RouterWorker):
    """The worker class that gunicorn runs in place of RouterWorker."""

    CONFIG_KWARGS: ClassVar[dict[str, str]] = {**RouterWorker.CONFIG_KWARGS, "http": f"{__name__}:CountingConnection"}


def environment(folder: Path) -> dict[str, str]:
    """Return the environment variables that make gunicorn's processes count into `folder`."""
    return {_FOLDER: str(folder), "GUNICORN_CMD_ARGS": f"--worker-class {__name__}.{CountingWorker.__name__}"}


def accepted(folder: Path, pid: int) -> int:
    """Return how many connections the process has accepted so far."""
    path = folder / str(pid)
    return path.stat().st_size if path.exists() else 0
