"""The results of `sfr run`: a file of one JSON object a line. A later run reads it and continues."""

import fcntl
import os
import shutil
import stat
import sys
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from router.cli.failure import BadInput
from router.cli.run.job_file import JobLine

_BEGINNING = b'{"index":'


class Result(msgspec.Struct):
    """One job's answer: `index` counts the jobs from 0, `job` is the job's digest, `body` the router's answer."""

    index: int
    job: str
    status: int
    body: msgspec.Raw


class _Known(msgspec.Struct):
    index: int
    job: str
    status: int


_read_known = msgspec.json.Decoder(_Known).decode


# A job of a group that has failed was not run, as its client wished.
SKIPPED = HTTPStatus.FAILED_DEPENDENCY


def is_final(status: int) -> bool:
    """Whether a job with this answer is done. After a 5xx it is not, because no worker could run it."""
    return status < HTTPStatus.INTERNAL_SERVER_ERROR


class Results:
    """The answers in a file, or on stdout (`-`), from which no later run can continue. Raises BadInput."""

    def __init__(self, path: str) -> None:
        self.is_file = path != "-"
        self.name = "stdout" if path == "-" else path
        self.done: dict[int, str] = {}
        self.statuses: Counter[int] = Counter()
        self._path = Path(path)
        # Unbuffered, so that closing the file does not write again what could not be written.
        self._file = self._open() if self.is_file else FileIO(sys.stdout.fileno(), "wb", closefd=False)
        if self.is_file and stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            self._go_on()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def is_done(self, job: JobLine) -> bool:
        """Whether this job has an answer. Raises BadInput if another job has one at this index."""
        digest = self.done.get(job.index)
        if digest not in (None, job.digest):
            raise BadInput(
                f"{self.name} has the result of another job in the place of line {job.number}: "
                "the jobs have changed since; name another output"
            )
        return digest is not None

    def check(self, count: int, jobs_name: str) -> None:
        """Raise BadInput if there are results of more than `count` jobs."""
        if any(index >= count for index in self.done):
            raise BadInput(f"{self.name} has results of more jobs than {jobs_name} has; name another output")

    def add(self, results: Sequence[Result]) -> None:
        """Write these results as whole lines, at once. Raises BadInput."""
        unwritten = memoryview(b"".join(msgspec.json.encode(result) + b"\n" for result in results))
        try:
            while unwritten:
                unwritten = unwritten[self._file.write(unwritten) :]
        except OSError as error:
            raise BadInput(f"{self.name}: cannot be written: {error.strerror}") from error
        self.statuses.update(result.status for result in results)

    def _open(self) -> FileIO:
        try:
            file = FileIO(self._path, "ab")
        except OSError as error:
            raise BadInput(f"{self.name}: cannot be written: {error.strerror}") from error
        self._lock(file)
        return file

    def _lock(self, file: FileIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BadInput(f"{self.name}: another `sfr run` is writing it") from error
        except OSError:
            pass  # not every file can be locked

    def _go_on(self) -> None:
        """Read which jobs are done. Drop a last line that was cut off, and all answers that are not final."""
        clean_bytes = dropped = 0
        with self._path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    self._check_cut(line, number)
                    break
                known = self._known(line, number)
                if is_final(known.status):
                    self.done[known.index] = known.job
                    self.statuses[known.status] += 1
                else:
                    dropped += 1
                clean_bytes += len(line)
        os.truncate(self._path, clean_bytes)
        if dropped:
            self._drop_failed()

    def _known(self, line: bytes, number: int) -> _Known:
        try:
            return _read_known(line)
        except (msgspec.DecodeError, RecursionError) as error:
            raise BadInput(f"{self.name}, line {number}: no result of `sfr run`: {error}") from error

    def _check_cut(self, line: bytes, number: int) -> None:
        if not line[: len(_BEGINNING)] == _BEGINNING[: len(line)]:
            raise BadInput(f"{self.name}, line {number}: no result of `sfr run`")

    def _drop_failed(self) -> None:
        """Replace the file by one without the answers that are not final. If interrupted, the old file stays whole."""
        path = self._path.resolve()  # so that a symbolic link stays one
        beside = path.with_name(f"{path.name}.tmp")
        with path.open("rb") as old, beside.open("wb") as new:
            for line in old:
                if is_final(_read_known(line).status):
                    new.write(line)
        shutil.copymode(path, beside)
        locked = self._file
        self._file = FileIO(beside, "ab")
        self._lock(self._file)
        beside.replace(path)
        locked.close()
