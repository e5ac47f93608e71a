"""The sources that name workers: config.yaml, workers_file and a DNS name. Each keeps its last good answer."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from router.config.load import ConfigError, WatchedFile, load
from router.config.settings import Settings
from router.config.text_file import Unreadable, read_text
from router.fleet import worker_list
from router.fleet.journal import sentences
from router.fleet.journal.model import Event
from router.fleet.model import Worker

log = logging.getLogger(__name__)

# A resolver that needs longer than this counts as failed.
RESOLVE_WITHIN_S = 5.0
# If a file has many bad lines, it is probably no list of workers, and only the first lines are logged.
_LOGGED_PROBLEMS = 10

Resolve = Callable[[str, int], Awaitable[list[str]]]


class ConfigFile:
    """config.yaml, read again when it changes. `tell` gets the event that it was taken over or refused."""

    def __init__(self, path: Path, tell: Callable[[Event], None] = lambda _: None) -> None:
        self._file = WatchedFile(path)
        self._file.has_changed()
        self._tell = tell

    def reread(self) -> Settings | None:
        """Return the settings if the file has changed since the last call; None if it has not, or is bad.

        A bad file is logged once, and the last good settings stay in force.
        """
        if not self._file.has_changed():
            return None
        try:
            settings = load(self._file.path)
        except ConfigError as error:
            log.error("Configuration not taken over, the last good one stays in force: %s", error)  # noqa: TRY400
            self._tell(sentences.refused(socket.gethostname(), "sidecar", str(error)))
            return None
        log.info("Configuration %s read again: %d workers", self._file.path, len(settings.workers))
        self._tell(sentences.reloaded(socket.gethostname(), "sidecar", str(self._file.path)))
        return settings


class WorkersFile:
    """A workers_file, read again when it changes. `workers` is None until it has been read."""

    def __init__(self, path: Path) -> None:
        self.workers: tuple[Worker, ...] | None = None
        self._file = WatchedFile(path)
        self._is_first_look = True

    def reread(self) -> None:
        """Read the file if it has changed. If it cannot be read, that is logged once, and `workers` stay."""
        if not self._file.has_changed() and not self._is_first_look:
            return
        self._is_first_look = False
        path = self._file.path
        try:
            text = read_text(path)
        except Unreadable as error:
            log.error("%s", error)  # noqa: TRY400
            return
        self.workers, problems = worker_list.parse(text, str(path))
        for problem in problems[:_LOGGED_PROBLEMS]:
            log.error("Line passed over: %s", problem)
        if len(problems) > _LOGGED_PROBLEMS:
            log.error("%s: %d more such lines", path, len(problems) - _LOGGED_PROBLEMS)
        log.info("%s read: %d workers", path, len(self.workers))


class DnsName:
    """A `name:port` with one address for each worker. `urls` is None until it has been resolved."""

    def __init__(self, name: str, resolve: Resolve) -> None:
        self.name = name
        self.urls: tuple[str, ...] | None = None
        self._resolve = resolve
        self._is_failing = False

    async def look_up(self) -> bool:
        """Resolve the name; return whether the answer has changed. A failure is logged once, and changes nothing."""
        host, _, port = self.name.rpartition(":")
        before = self.urls
        try:
            async with asyncio.timeout(RESOLVE_WITHIN_S):
                addresses = await self._resolve(host, int(port))
        except (OSError, ValueError) as error:  # socket.gaierror, TimeoutError and UnicodeError are among these
            if not self._is_failing:
                reason = getattr(error, "strerror", None) or str(error) or f"no answer within {RESOLVE_WITHIN_S:g} s"
                log.warning("%s cannot be resolved, its last answer stays in force: %s", self.name, reason)
            self._is_failing = True
            return False
        if self._is_failing:
            log.info("%s is resolved again", self.name)
        self._is_failing = False
        lines = "\n".join(f"{address}:{port}" for address in addresses)
        workers, problems = worker_list.parse(lines, self.name)
        self.urls = tuple(worker.url for worker in workers)
        if self.urls != before:
            for problem in problems[:_LOGGED_PROBLEMS]:
                log.error("Address passed over: %s", problem)
        return self.urls != before


async def addresses_of(host: str, port: int) -> list[str]:
    """Return the name's IPv4 addresses, sorted; if it has none, its IPv6 addresses in brackets. Raises OSError.

    Not both, because a worker with an address of each kind would count as two.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    of_v4 = {str(address[0]) for family, *_, address in found if family is socket.AF_INET}
    return sorted(of_v4 or {f"[{address[0]}]" for *_, address in found})
