"""`sfr run`: the command's options, its steps from the jobs to the summary, and its exit status."""

# ruff: noqa: PLC0415  (see cli/options.py)
import os
import signal
import stat
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from enum import StrEnum
from http import HTTPStatus
from io import FileIO
from typing import TYPE_CHECKING, Annotated

import typer

from router.cli.failure import BadInput, Exit, Failed
from router.cli.options import ROUTER_URL, router_url

if TYPE_CHECKING:
    from router.cli.run.batch_client import BatchClient
    from router.cli.run.progress import RunProgress
    from router.cli.run.results_file import Results

# No option, because everyone on this host can read the options of a process.
API_KEY_VARIABLE = "SFR_API_KEY"
_READ_BYTES = 2**20


class Order(StrEnum):
    """In which order the router begins the jobs."""

    ARRIVAL = "arrival"
    LONGEST_FIRST = "longest_first"


class StopOn(StrEnum):
    """What of one job of a group ends the others."""

    FAILURE = "failure"


def run(
    jobs: Annotated[
        str, typer.Argument(metavar="FILE", help="A file with one job a line, in JSON as for /run_code; - for stdin.")
    ],
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where results go, one a line. An earlier run's file is continued; - for stdout.",
        ),
    ] = "-",
    url: Annotated[str, typer.Option(envvar="SFR_URL", metavar="URL", help="The router's address.")] = ROUTER_URL,
    order: Annotated[
        Order | None,
        typer.Option(
            help="In which order jobs begin: as they stand in the file, or the longest first.", show_default=False
        ),
    ] = None,
    stop_on: Annotated[
        StopOn | None,
        typer.Option(
            help="Once a job has failed, jobs of its group that have not begun are skipped (424).", show_default=False
        ),
    ] = None,
) -> None:
    """Run a file of jobs.

    Example: `sfr run jobs.jsonl -o results.jsonl`

    After an interruption, the same command continues where it was. It then also sends the jobs again that no worker
    could run (5xx). If the router asks for an API key, the command takes it from SFR_API_KEY.

    Exit status: 0 all jobs were answered with 200, or skipped; 1 some were not; 2 jobs, output or an option cannot be
    used; 3 no router can be reached; 128 + n ended by signal n.
    """
    from router.cli.run.results_file import SKIPPED, Results

    try:
        address = router_url(url)
        with Results(output) as results, _opened(jobs) as fd:
            said = {"order": order, "stop_on": stop_on}
            query = "&".join(f"{name}={value}" for name, value in said.items() if value is not None)
            _run_jobs(fd, jobs, results, address, query)
            raise typer.Exit(Exit.DONE if results.statuses.keys() <= {HTTPStatus.OK, SKIPPED} else Exit.FAILED)
    except KeyboardInterrupt:  # before the first job
        raise typer.Exit(Exit.SIGNALLED + signal.SIGINT) from None


def summary(statuses: Counter[int], total: int | None, before: int, seconds: float) -> str:
    """Return how the jobs ended, in a line. `before` of them had results before this run.

    >>> summary(Counter({200: 8, 503: 1, 422: 1}), 12, 0, 2.04)
    '10 of 12 jobs answered in 2.0 s: 8 done, 2 failed (422: 1, 503: 1)'
    >>> summary(Counter({200: 8, 424: 2}), 10, 0, 2.04)
    '10 jobs answered in 2.0 s: 8 done, 2 skipped, 0 failed'
    """
    from router.cli.run.results_file import SKIPPED

    answered, skipped = statuses.total(), statuses[SKIPPED]
    failed = {status: count for status, count in sorted(statuses.items()) if status not in (HTTPStatus.OK, SKIPPED)}
    causes = ", ".join(f"{status}: {count}" for status, count in failed.items())
    return (
        f"{answered}{'' if total in (None, answered) else f' of {total}'} job{'' if (total or answered) == 1 else 's'} "
        f"answered in {seconds:.1f} s{f', {before} of them before' if before else ''}: "
        f"{answered - skipped - sum(failed.values())} done{f', {skipped} skipped' if skipped else ''}, "
        f"{sum(failed.values())} failed{f' ({causes})' if causes else ''}"
    )


def _run_jobs(fd: int, name: str, results: "Results", url: str, query: str) -> None:
    """Send all jobs that have no result. However that ends, print the summary."""
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
                total = _check_jobs(fd, name, results, progress)
            progress.begin(results.statuses, total)
            reader = JobReader(fd, JobLines(_name_shown(name), results.is_done))
            key = os.environ.get(API_KEY_VARIABLE, "").strip()
            on_cut = lambda cause: progress.say(f"connection lost, going on: {cause}")  # noqa: E731
            client = BatchClient(url, key, reader, on_cut, query)
            asyncio.run(_drive(client, results, progress))
    finally:
        typer.echo(summary(results.statuses, total, before, time.monotonic() - started), err=True)
        left = (total or 0) - sum(count for status, count in results.statuses.items() if is_final(status))
        if results.is_file and left > 0:
            typer.echo(f"the same command goes on with the other {left}", err=True)


def _check_jobs(fd: int, name: str, results: "Results", progress: "RunProgress") -> int:
    """Read all jobs and return their number, so that a bad one is found before any runs. Raises BadInput."""
    from router.cli.run.job_file import JobLines

    lines = JobLines(_name_shown(name), results.is_done)
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
    """Write answers to the results as they come. Raises Failed, also at a signal."""
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
            raise Failed(f"ended by {signal.Signals(signals[0]).name}", Exit.SIGNALLED + signals[0]) from None
        raise


@contextmanager
def _opened(name: str) -> Iterator[int]:
    """Yield the file descriptor of the jobs. Raises BadInput."""
    if name == "-":
        yield sys.stdin.fileno()
        return
    try:
        file = FileIO(name)
    except OSError as error:
        raise BadInput(f"{name}: cannot be read: {error.strerror}") from error
    with file:
        yield file.fileno()


def _name_shown(name: str) -> str:
    return "stdin" if name == "-" else name
