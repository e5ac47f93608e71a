"""Large texts are looked at a piece at a time, one piece in a turn of the event loop, whoever's they are."""

import asyncio
from collections.abc import Generator
from typing import TypeVar

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
