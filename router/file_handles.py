"""File handles, of which each connection takes one: as many as this process may have, and a word where they run out."""

import asyncio
import errno
import logging
import os
import resource
from contextlib import suppress
from typing import Never

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25


def raise_limit() -> None:
    """Let this process open as many files as its hard limit allows; shells give 1024, systemd and Docker far more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # where `hard` is no number that the kernel takes
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class FileHandles:
    """Says when this process has no handle left, and when it has again.

    An Acceptor leaves some for connections to workers. But a batch may need many, and other programs may take all of
    the host's. And where uvicorn accepts, libuv closes clients' connections at once, and tells nobody.
    """

    def __init__(self) -> None:
        self._is_short = False

    async def run(self) -> Never:
        """Look every LOOK_EVERY_S, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Try to open a file; say so where what this brings is another thing than the last time."""
        try:
            os.close(os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            if not self._is_short:
                log.error("New connections fail, clients' or workers': %s", _shortage(error))  # noqa: TRY400
            self._is_short = True
        else:
            if self._is_short:
                log.info("There are file handles again")
            self._is_short = False


def _shortage(error: OSError) -> str:
    """Return what is short, and what raises it.

    >>> _shortage(OSError(errno.ENFILE, "Too many open files in system"))
    'this host has no file handles left (fs.file-max)'
    """
    if error.errno == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"this process has used its {limit} file handles (ulimit -Hn, LimitNOFILE)"
    if error.errno == errno.ENFILE:
        return "this host has no file handles left (fs.file-max)"
    return f"no file can be opened: {error.strerror}"
