"""File handles, of which each connection takes one: raises this process' limit, and logs when none is left."""

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
    """Raise the limit of open files to the hard limit; shells set 1024, systemd and Docker far more."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # the kernel does not accept every `hard`
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class FileHandles:
    """Logs when this process has no file handle left, and when it has one again.

    An Acceptor leaves some for connections to workers. But a batch may need many, and other programs may take all of
    the host's.
    """

    def __init__(self) -> None:
        self._is_short = False

    async def run(self) -> Never:
        """Look every LOOK_EVERY_S seconds, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    def look(self) -> None:
        """Try to open a file, and log the result if it differs from the last one."""
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
    """Return what is short, and which limit to raise.

    >>> _shortage(OSError(errno.ENFILE, "Too many open files in system"))
    'this host has no file handles left (fs.file-max)'
    """
    if error.errno == errno.EMFILE:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return f"this process has used its {limit} file handles (ulimit -Hn, LimitNOFILE)"
    if error.errno == errno.ENFILE:
        return "this host has no file handles left (fs.file-max)"
    return f"no file can be opened: {error.strerror}"
