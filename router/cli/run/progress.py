"""The progress bar of `sfr run`, on stderr, if that is a terminal."""

from collections import Counter
from http import HTTPStatus
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from router.cli.run.results_file import SKIPPED


class _Speed(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return the number of jobs or bytes a second."""
        return Text("" if task.speed is None else f"{task.speed:.0f}/s")


class RunProgress:
    """Shows first how much of the jobs' file has been read, then how many jobs have their answers."""

    def __init__(self) -> None:
        console = Console(stderr=True, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Speed(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = TaskID(0)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def begin_reading(self, size: int) -> None:
        """Begin to show how many of `size` bytes are read."""
        self._task = self._progress.add_task("reading", total=size, visible=size > 0)

    def has_read(self, count: int) -> None:
        """Show that `count` more bytes have been read."""
        self._progress.advance(self._task, count)

    def begin(self, statuses: Counter[int], total: int | None) -> None:
        """Begin to show how many of `total` jobs are answered; None: the number is not known."""
        for task in self._progress.task_ids:
            self._progress.remove_task(task)
        self._task = self._progress.add_task("jobs", total=total, completed=statuses.total())

    def show(self, statuses: Counter[int]) -> None:
        """Show how many jobs are answered now, and how many of these failed."""
        failed = statuses.total() - statuses[HTTPStatus.OK] - statuses[SKIPPED]
        described = f"jobs, {failed} failed" if failed else "jobs"
        self._progress.update(self._task, completed=statuses.total(), description=described)

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._progress.console.print(message, markup=False, soft_wrap=True)
