"""`sfr run`: the command's options, its progress bar, its summary and how it ends."""

# ruff: noqa: PLC0415  (see cli.py)
import os
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from enum import IntEnum
from http import HTTPStatus
from io import FileIO
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from router.cli.options import router_url

if TYPE_CHECKING:
    from router.cli.run.batch_client import BatchClient
    from router.cli.run.progress import RunProgress
    from router.cli.run.results_file import Results

# A secret, and so no option: those can be read in the list of processes.
API_KEY_VARIABLE = "SFR_API_KEY"
_READ_BYTES = 2**20


class Exit(IntEnum):
    """How `sfr run` ends; docs/batch.md explains them."""

    ALL_DONE = 0
    SOME_FAILED = 1
    BAD_INPUT = 2
    NO_ROUTER = 3
    SIGNALLED = 128  # and the signal's number


class Signalled(Exception):
    """The command was told to end."""

    def __init__(self, number: int) -> None:
        super().__init__(f"ended by {signal.Signals(number).name}")
        self.number = number


def run(
    jobs: Annotated[str, typer.Argument(help="A file with one job a line (JSON, as for /run_code); - for stdin.")],
    output: Annotated[
        str, typer.Option("--output", "-o", help="Where results go, one a line. A file is gone on with; - for stdout.")
    ] = "-",
    url: Annotated[str, typer.Option(envvar="SFR_URL", help="The router's address.")] = "http://127.0.0.1:8000",
) -> None:
    """Run many jobs: `sfr run jobs.jsonl -o results.jsonl`.

    Interrupted, the same command goes on where it was; jobs that nobody could run (5xx) are then tried again. A router
    that wants an API key gets the one in SFR_API_KEY.

    Exit status: 0 all jobs were answered with 200; 1 some were not; 2 jobs, output or an option cannot be used; 3 no
    router can be reached; 128 + n ended by signal n.
    """
    from router.cli.run.batch_client import NotTaken, Unreachable
    from router.cli.run.job_file import BadInput
    from router.cli.run.results_file import Results

    try:
        address = router_url(url)
        with Results(output) as results, _opened(jobs) as fd:
            _run(fd, jobs, results, address)
            raise typer.Exit(Exit.ALL_DONE if results.statuses.keys() <= {HTTPStatus.OK} else Exit.SOME_FAILED)
    except BadInput as error:
        _fail(str(error), Exit.BAD_INPUT)
    except (Unreachable, NotTaken) as error:
        _fail(f"the router at {address} {error}", Exit.NO_ROUTER)
    except Signalled as error:
        _fail(str(error), Exit.SIGNALLED + error.number)
    except KeyboardInterrupt:  # before the first job
        raise typer.Exit(Exit.SIGNALLED + signal.SIGINT) from None


def summary(statuses: Counter[int], total: int | None, before: int, seconds: float) -> str:
    """Return what became of the jobs, in a line. `before` of them had results when it began.

    >>> summary(Counter({200: 8, 503: 1, 422: 1}), 12, 0, 2.04)
    '10 of 12 jobs answered in 2.0 s: 8 done, 2 failed (422: 1, 503: 1)'
    """
    answered = statuses.total()
    failed = {status: count for status, count in sorted(statuses.items()) if status != HTTPStatus.OK}
    causes = ", ".join(f"{status}: {count}" for status, count in failed.items())
    return (
        f"{answered}{'' if total in (None, answered) else f' of {total}'} job{'' if (total or answered) == 1 else 's'} "
        f"answered in {seconds:.1f} s{f', {before} of them before' if before else ''}: "
        f"{answered - sum(failed.values())} done, {sum(failed.values())} failed{f' ({causes})' if causes else ''}"
    )


def _run(fd: int, name: str, results: "Results", url: str) -> None:
    """Send all jobs that have no result; whatever ends it, tell how many have one now."""
    import asyncio

    from router.cli.run.batch_client import BatchClient
    from router.cli.run.job_file import JobLines, JobReader
    from router.cli.run.progress import RunProgress
    from router.cli.run.results_file import is_final

    started, before = time.monotonic(), results.statuses.total()
    total: int | None = None
    try:
        with RunProgress() as progress:
            if stat.S_ISREG(os.fstat(fd).st_mode):
                total = _check(fd, name, results, progress)
            progress.begin(results.statuses, total)
            reader = JobReader(fd, JobLines(_shown(name), results.is_done))
            key = os.environ.get(API_KEY_VARIABLE, "").strip()
            client = BatchClient(url, key, reader, lambda cause: progress.say(f"connection lost, going on: {cause}"))
            asyncio.run(_drive(client, results, progress))
    finally:
        typer.echo(summary(results.statuses, total, before, time.monotonic() - started), err=True)
        left = (total or 0) - sum(count for status, count in results.statuses.items() if is_final(status))
        if results.is_file and left > 0:
            typer.echo(f"the same command goes on with the other {left}", err=True)


def _check(fd: int, name: str, results: "Results", progress: "RunProgress") -> int:
    """Read all jobs, and return how many there are: what is wrong with one is said before any runs. Raises BadInput."""
    from router.cli.run.job_file import JobLines

    lines = JobLines(_shown(name), results.is_done)
    progress.begin_reading(os.fstat(fd).st_size)
    part = b"begun"
    while part:
        part = os.read(fd, _READ_BYTES)
        for _ in lines.feed(part):
            pass
        progress.has_read(len(part))
    results.check(lines.count, lines.name)
    os.lseek(fd, 0, os.SEEK_SET)
    return lines.count


async def _drive(client: "BatchClient", results: "Results", progress: "RunProgress") -> None:
    """Write down what comes. Raises Signalled, and what the client and the results raise."""
    import asyncio

    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    signals: list[int] = []

    def stop(number: int) -> None:
        signals.append(number)
        if task is not None:
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    try:
        async with aclosing(client.results()) as batches:
            async for answered in batches:
                results.add(answered)
                progress.show(results.statuses)
    except asyncio.CancelledError:
        if signals:
            raise Signalled(signals[0]) from None
        raise


@contextmanager
def _opened(name: str) -> Iterator[int]:
    """Give the file descriptor of the jobs. Raises BadInput."""
    from router.cli.run.job_file import BadInput

    if name == "-":
        yield sys.stdin.fileno()
        return
    try:
        file = FileIO(name)
    except OSError as error:
        raise BadInput(f"{name}: cannot be read: {error.strerror}") from error
    with file:
        yield file.fileno()


def _shown(name: str) -> str:
    return "stdin" if name == "-" else name


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(message, err=True)
    raise typer.Exit(status)
