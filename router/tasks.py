"""Tasks that nobody awaits."""

import asyncio
from collections.abc import Coroutine


def start(tasks: set[asyncio.Task[None]], coroutine: Coroutine[None, None, None]) -> None:
    """Run `coroutine` as one of `tasks` until it has ended: the event loop alone would not hold it."""
    task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)
