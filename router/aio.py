"""Small tools for asyncio: tasks that nobody awaits, a future for a callback, and turns between pieces of long work.

A part of the process that a fault ends begins again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import TypeVar

from router.logs import fault_of

log = logging.getLogger(__name__)

# How long after a fault a part begins again.
AGAIN_S = 1.0

Found = TypeVar("Found")


def start(tasks: set[asyncio.Task[None]], coroutine: Coroutine[None, None, None]) -> None:
    """Run `coroutine` in a task that `tasks` holds until it has ended: the event loop alone would not hold it."""
    task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


async def lasting(run: Callable[[], Awaitable[None]]) -> None:
    """Run a part of the process until it returns. After a fault it begins again: without it jobs would suffer unseen.

    The fault is logged, unless it is the same one as the last time.
    """
    fault = ""
    while True:
        fault = await fault_of(run, fault, log, "The router goes on after a fault of its own")
        if not fault:
            return
        await asyncio.sleep(AGAIN_S)


def resolver(future: "asyncio.Future[Found]", drop: Callable[[Found], None] | None = None) -> Callable[[Found], None]:
    """Return a callback that gives `future` its result.

    Where the future is done, because the coroutine that awaited it has been cancelled, `drop` gets the result.
    """

    def resolve(result: Found) -> None:
        if not future.done():
            future.set_result(result)
        elif drop is not None:
            drop(result)

    return resolve


class Turns:
    """Splits long work into pieces, and lets the rest of the process go on between two of them."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def next(self) -> None:
        """Return when it is the caller's turn again: after the event loop, and after all callers that wait already."""
        async with self._turn:
            await asyncio.sleep(0)

    async def run(self, steps: Generator[None, None, Found]) -> Found:
        """Return what `steps` returns; a turn passes after each of its yields."""
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found: Found = end.value
                return found
            await self.next()
