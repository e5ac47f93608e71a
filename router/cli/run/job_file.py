"""Reads the jobs of `sfr run`: one JSON object a line, from a file or a pipe."""

import asyncio
import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import inf

from router.cli.failure import BadInput
from router.http.ndjson import Line, Lines, flaw_as_job, trimmed
from router.jobs.batch.hints import take_out
from router.policy.large_json import finished

_READ_BYTES = 2**16
_DIGEST_BYTES = 8


@dataclass(frozen=True, slots=True)
class JobLine:
    """One job. `index` counts jobs from 0, `number` counts the file's lines from 1; `digest` is its text's hash."""

    index: int
    number: int
    text: bytes
    digest: str


class JobLines:
    """Splits the text of the file `name` into jobs, and leaves out those for which `is_done` returns True.

    `is_done` may raise BadInput.
    """

    def __init__(self, name: str, is_done: Callable[[JobLine], bool]) -> None:
        self.count = 0
        self.name = name
        self._is_done = is_done
        self._lines = Lines(max_bytes=inf)

    def feed(self, part: bytes) -> Iterator[JobLine]:
        """Yield the jobs that end in `part`; b"" ends the text. Raises BadInput."""
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
        try:
            finished(take_out(text))
        except ValueError as error:
            raise BadInput(f"{self.name}, line {line.number}: {error}") from error
        self.count += 1
        digest = hashlib.blake2b(text, digest_size=_DIGEST_BYTES).hexdigest()
        return JobLine(self.count - 1, line.number, text, digest)


class JobReader:
    """Reads jobs from the file descriptor `fd` as they are asked for. `failure`: why reading failed, if it did."""

    def __init__(self, fd: int, jobs: JobLines) -> None:
        self.failure: BadInput | None = None
        self._fd = fd
        self._jobs = jobs
        self._ready: deque[JobLine] = deque()
        self._has_ended = False

    async def next(self) -> JobLine | None:
        """Return the next job; None at the end. Cancelling this loses no job."""
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
    """Wait until there is something to read. No thread is used, because it would outlive Ctrl-C."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    try:
        loop.add_reader(fd, ready.set)
    except PermissionError:  # a regular file is always readable, and epoll takes none
        return
    try:
        await ready.wait()
    finally:
        loop.remove_reader(fd)
