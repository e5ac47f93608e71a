"""Shows on stderr, if that is a terminal, that the command still waits: a bar, once the wait is long."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# A shorter wait needs no explanation.
_AFTER_S = 2.0
_STEP_S = 0.1


@contextmanager
def waiting(
    what: str = "waiting for an answer", total_s: float | None = None, after_s: float = _AFTER_S
) -> Iterator[None]:
    """Show the bar while the block runs, after the first `after_s` seconds; `total_s`: how long it takes, if known."""
    if not sys.stderr.isatty():
        yield
        return
    is_over = threading.Event()
    bar = threading.Thread(target=_show_bar, args=(what, total_s, after_s, is_over), daemon=True)
    bar.start()
    try:
        yield
    finally:
        is_over.set()
        bar.join()


def _show_bar(what: str, total_s: float | None, after_s: float, is_over: threading.Event) -> None:
    started = time.monotonic()
    if is_over.wait(after_s):
        return
    from rich.console import Console  # noqa: PLC0415  (rarely needed, and it would delay every command)
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total_s)
        while True:
            progress.update(task, completed=time.monotonic() - started)
            if is_over.wait(_STEP_S):
                return
