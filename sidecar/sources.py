"""Where workers are named: config.yaml, a file with one a line, a DNS name. Each keeps its last good answer."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from router.config.load import ConfigError, WatchedFile, load
from router.config.settings import Settings
from router.config.text_file import Unreadable, read_text
from router.fleet import worker_list

log = logging.getLogger(__name__)

# Longer than that nobody waits for a resolver.
RESOLVE_WITHIN_S = 5.0
# A list of many bad lines is no list of workers.
_TOLD_AT_MOST = 10

Resolve = Callable[[str, int], Awaitable[list[str]]]


class ConfigFile:
    """config.yaml as it changes."""

    def __init__(self, path: Path) -> None:
        self._file = WatchedFile(path)
        self._file.has_changed()

    def reread(self) -> Settings | None:
        """Return the settings where the file has changed since the last call; None where it has not, or is bad.

        A bad file is said once, and what was in force stays so.
        """
        if not self._file.has_changed():
            return None
        try:
            settings = load(self._file.path)
        except ConfigError as error:
            log.error("Configuration not taken over, the last good one stays in force: %s", error)  # noqa: TRY400
            return None
        log.info("Configuration %s read again: %d workers", self._file.path, len(settings.workers))
        return settings


class WorkersFile:
    """A workers_file as it changes. `urls` is None until it has been read."""

    def __init__(self, path: Path) -> None:
        self.urls: tuple[str, ...] | None = None
        self._file = WatchedFile(path)
        self._is_first_look = True

    def reread(self) -> None:
        """Read the file where it has changed. One that cannot be read is said once, and the last good one stays."""
        if not self._file.has_changed() and not self._is_first_look:
            return
        self._is_first_look = False
        path = self._file.path
        try:
            text = read_text(path)
        except Unreadable as error:
            log.error("%s", error)  # noqa: TRY400
            return
        self.urls, problems = worker_list.parse(text, str(path))
        for problem in problems[:_TOLD_AT_MOST]:
            log.error("Line passed over: %s", problem)
        if len(problems) > _TOLD_AT_MOST:
            log.error("%s: %d more such lines", path, len(problems) - _TOLD_AT_MOST)
        log.info("%s read: %d workers", path, len(self.urls))


class DnsName:
    """A `name:port` with an address for each worker. `urls` is None until it has been resolved."""

    def __init__(self, name: str, resolve: Resolve) -> None:
        self.name = name
        self.urls: tuple[str, ...] | None = None
        self._resolve = resolve
        self._is_failing = False

    async def look_up(self) -> bool:
        """Resolve the name; return whether the answer is another one. A failure is said once, and changes nothing."""
        host, _, port = self.name.rpartition(":")
        before = self.urls
        try:
            async with asyncio.timeout(RESOLVE_WITHIN_S):
                addresses = await self._resolve(host, int(port))
        except (OSError, ValueError) as error:  # socket.gaierror, TimeoutError and UnicodeError are some
            if not self._is_failing:
                reason = getattr(error, "strerror", None) or str(error) or f"no answer within {RESOLVE_WITHIN_S:g} s"
                log.warning("%s cannot be resolved, its last answer stays in force: %s", self.name, reason)
            self._is_failing = True
            return False
        if self._is_failing:
            log.info("%s is resolved again", self.name)
        self._is_failing = False
        lines = "\n".join(f"{address}:{port}" for address in addresses)
        self.urls, problems = worker_list.parse(lines, self.name)
        if self.urls != before:
            for problem in problems[:_TOLD_AT_MOST]:
                log.error("Address passed over: %s", problem)
        return self.urls != before


async def addresses_of(host: str, port: int) -> list[str]:
    """Return the addresses of the name, in order: of IPv4, or where it has none, of IPv6 in brackets. Raises OSError.

    A worker with both must not count as two.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    of_v4 = {str(address[0]) for family, *_, address in found if family is socket.AF_INET}
    return sorted(of_v4 or {f"[{address[0]}]" for *_, address in found})
