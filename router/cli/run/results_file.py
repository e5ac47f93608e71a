"""What `sfr run` has been answered: a file of one JSON object a line, to which it adds, and from which it goes on."""

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

from router.cli.run.job_file import BadInput, JobLine

_BEGINNING = b'{"index":'


class Result(msgspec.Struct):
    """One job's answer: `index` counts the file's jobs from 0, `job` is its digest, `body` what the router said."""

    index: int
    job: str
    status: int
    body: msgspec.Raw


class _Known(msgspec.Struct):
    index: int
    job: str
    status: int


_read_known = msgspec.json.Decoder(_Known).decode


def is_final(status: int) -> bool:
    """Whether a job with this answer is done: a 5xx says that nobody could run it, and it is worth another try."""
    return status < HTTPStatus.INTERNAL_SERVER_ERROR


class Results:
    """The answers in a file, or on stdout (`-`), where nothing is gone on with. Raises BadInput."""

    def __init__(self, path: str) -> None:
        self.is_file = path != "-"
        self.name = "stdout" if path == "-" else path
        self.done: dict[int, str] = {}
        self.statuses: Counter[int] = Counter()
        self._path = Path(path)
        # Unbuffered: what could not be written is not tried again at the end.
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
        """Whether there is an answer to this job. Raises BadInput where there is one to another in its place."""
        digest = self.done.get(job.index)
        if digest not in (None, job.digest):
            raise BadInput(
                f"{self.name} has the result of another job in the place of line {job.number}: "
                "the jobs have changed since; name another output"
            )
        return digest is not None

    def check(self, count: int, jobs_name: str) -> None:
        """See to it that there are so many jobs. Raises BadInput where these are the results of more."""
        if any(index >= count for index in self.done):
            raise BadInput(f"{self.name} has results of more jobs than {jobs_name} has; name another output")

    def add(self, results: Sequence[Result]) -> None:
        """Write these, whole lines, at once. Raises BadInput."""
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
        """Learn what is done. A cut last line is dropped, and so are the answers that are worth another try."""
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
        """Replace the file by one without them; should that be interrupted, the old one is still whole."""
        path = self._path.resolve()  # whatever points to it, goes on to
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
