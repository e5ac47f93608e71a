"""The jobs that `sfr run` is given: one JSON object a line, from a file or a pipe."""

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

from router.http.ndjson import Line, Lines, flaw_as_job, trimmed
from router.policy.large_json import finished

_READ_BYTES = 2**16
_DIGEST_BYTES = 8


class BadInput(Exception):
    """What was given cannot be used; the message names the file, the line and what was expected."""


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job. `index` counts jobs from 0, `number` the lines of its file from 1; `digest` tells it from others."""

    index: int
    number: int
    text: bytes
    digest: str


class JobLines:
    """Finds the jobs in what is read of the file `name`; those that are done it leaves out.

    `is_done` is asked of each job, and may raise BadInput.
    """

    def __init__(self, name: str, is_done: Callable[[JobLine], bool]) -> None:
        self.count = 0
        self.name = name
        self._is_done = is_done
        self._lines = Lines(max_bytes=inf)

    def feed(self, part: bytes) -> Iterator[JobLine]:
        """Yield the jobs that end in `part`; b"" is the end of all. Raises BadInput."""
        for line in self._lines.feed(part) if part else self._lines.end():
            job = self._job(line)
            if job is not None and not self._is_done(job):
                yield job

    def _job(self, line: Line) -> JobLine | None:
        text = bytes(trimmed(line.text or b""))
        if not text:
            return None
        if found := finished(flaw_as_job(text)):
            hint = "; of a JSON list, `jq -c '.[]'` makes lines" if text.startswith(b"[") else ""
            raise BadInput(f"{self.name}, line {line.number}: {found}{hint}")
        self.count += 1
        digest = hashlib.blake2b(text, digest_size=_DIGEST_BYTES).hexdigest()
        return JobLine(self.count - 1, line.number, text, digest)


class JobReader:
    """Reads jobs from the file descriptor `fd` as they are asked for. `failure` is why no more come, if not the end."""

    def __init__(self, fd: int, jobs: JobLines) -> None:
        self.failure: BadInput | None = None
        self._fd = fd
        self._jobs = jobs
        self._ready: deque[JobLine] = deque()
        self._has_ended = False

    async def next(self) -> JobLine | None:
        """Return the next job; None at the end. Cancelled, it loses none."""
        while not self._ready and not self._has_ended:
            await _is_readable(self._fd)
            try:
                part = os.read(self._fd, _READ_BYTES)
                self._has_ended = not part
                self._ready.extend(self._jobs.feed(part))
            except BadInput as error:
                self.failure, self._has_ended = error, True
            except OSError as error:
                self.failure = BadInput(f"{self._jobs.name}: cannot be read: {error.strerror}")
                self._has_ended = True
        return self._ready.popleft() if self._ready else None


async def _is_readable(fd: int) -> None:
    """Wait, without a thread that would outlive Ctrl-C, until there is something to read."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:  # a file's bytes are there, and epoll takes none
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
