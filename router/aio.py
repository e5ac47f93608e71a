"""Tasks that nobody awaits."""

import asyncio
from collections.abc import Coroutine, Generator
from typing import TypeVar


def start(tasks: set[asyncio.Task[None]], coroutine: Coroutine[None, None, None]) -> None:
    """Run `coroutine` as one of `tasks` until it has ended: the event loop alone would not hold it."""
    task = asyncio.get_running_loop().create_task(coroutine)
    tasks.add(task)
    task.add_done_callback(tasks.discard)


Found = TypeVar("Found")


class Turns:
    """Lets all else that the process does go on between two pieces."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def next(self) -> None:
        """Return when it is this text's turn again."""
        async with self._turn:
            await asyncio.sleep(0)

    async def run(self, steps: Generator[None, None, Found]) -> Found:
        """Return what `steps` return; each of them takes a piece."""
        while True:
            try:
                next(steps)
            except StopIteration as end:
                found: Found = end.value
                return found
            await self.next()
