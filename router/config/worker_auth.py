"""Reads from files the header that workers ask for, such as `Authorization: Bearer KEY`.

The header is sent only to its worker, with jobs, pings and deep checks. Its value is a secret: it appears in no log, in
no answer and not in Redis.
"""

import logging
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from router.config.load import ConfigError, WatchedFile
from router.config.settings import Settings
from router.config.text_file import Unreadable, read_text

log = logging.getLogger(__name__)

_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[!-~]([ -~]*[!-~])?")
_LONGEST = 8_192
# Headers that frame a message, that concern one connection, or that we set for each request.
_NOT_OURS = frozenset(
    {
        *("connection", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
        *("accept-encoding", "content-encoding", "content-length", "content-type", "expect", "host", "user-agent"),
        *("traceparent", "tracestate", "x-request-id"),
    }
)
# A shorter secret may appear in an answer by chance.
_SECRET_FROM = 8


@dataclass(frozen=True, slots=True)
class Header:
    """One header line: its name in lower case, and its value, which is a secret."""

    name: str
    value: str = field(repr=False)

    def hidden_in(self, text: str) -> str:
        """Return a worker's answer with this secret masked, in case the worker has repeated it.

        >>> Header("authorization", "Bearer hunter2-hunter2").hidden_in("no hunter2-hunter2 here")
        'no *** here'
        """
        for secret in (self.value, self.value.rpartition(" ")[2]):
            if len(secret) >= _SECRET_FROM:
                text = text.replace(secret, "***")
        return text


class WorkerAuth:
    """The header for each worker: its own, or the one for all workers."""

    def __init__(self) -> None:
        self._for_all: str | None = None
        self._by_url: dict[str, str] = {}
        self._files: dict[str, WatchedFile] = {}
        self._headers: dict[str, Header] = {}

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Read all files that the settings name. Raises ConfigError."""
        auth = cls()
        for path in auth._name(settings):
            auth._files[path].has_changed()
            auth._headers[path] = _read_header(Path(path))
        return auth

    def reread(self, settings: Settings) -> None:
        """Follow the settings, and read the files that have changed. If one is bad, its last header stays in force."""
        for path in self._name(settings):
            if not self._files[path].has_changed():
                continue
            try:
                self._headers[path] = _read_header(Path(path))
            except ConfigError as error:
                log.error("Header for workers not taken over, the last good one stays in force: %s", error)  # noqa: TRY400
            else:
                log.info("%s read: the header %s for workers", path, self._headers[path].name)

    def for_worker(self, url: str) -> Header | None:
        """Return the header that the worker at `url` asks for; None if it asks for none."""
        path = self._by_url.get(url, self._for_all)
        return None if path is None else self._headers.get(path)

    def _name(self, settings: Settings) -> set[str]:
        self._for_all = settings.worker_auth
        self._by_url = {worker.url: worker.worker_auth for worker in settings.workers if worker.worker_auth}
        paths = set(self._by_url.values()) | ({self._for_all} if self._for_all else set())
        for path in paths - self._files.keys():
            self._files[path] = WatchedFile(Path(path))
        return paths


def _read_header(path: Path) -> Header:
    """Return the header in the file. Raises ConfigError, whose message does not repeat the content."""
    try:
        text = read_text(path, "worker_auth").strip()
    except Unreadable as error:
        raise ConfigError(str(error)) from error
    name, colon, value = text.partition(":")
    value = value.strip()
    if not colon or not _NAME.fullmatch(name) or not _VALUE.fullmatch(value) or len(text) > _LONGEST:
        raise ConfigError(f"worker_auth: {path}: expected one line such as `Authorization: Bearer KEY`")
    if name.lower() in _NOT_OURS:
        raise ConfigError(f"worker_auth: {path}: {name} is a header that the router sets itself")
    return Header(name.lower(), value)
