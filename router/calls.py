"""When this process calls the exchange: one call at a time, and whoever comes while it is under way shares the next.

It knows only that there is something to say and how urgent it is, not what.
"""

import asyncio
from collections.abc import Callable, Coroutine

# What is not urgent waits so long for company: a call costs Redis and this process as much as several jobs in it.
COMPANY_WITHIN_S = 0.001


class Calls:
    """Makes calls by `call_once` as long as there is something urgent to say; `is_more` tells of what can wait."""

    def __init__(
        self,
        call_once: Callable[[], Coroutine[None, None, None]],
        is_urgent: Callable[[], bool],
        is_more: Callable[[], bool],
    ) -> None:
        self._call_once = call_once
        self._is_urgent = is_urgent
        self._is_more = is_more
        self._under_way: asyncio.Task[None] | None = None
        self._planned: asyncio.TimerHandle | None = None

    def now(self) -> None:
        """Call at once, or next."""
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        if self._under_way is None:
            self._under_way = asyncio.create_task(self._run())

    def soon(self) -> None:
        """Call in a moment, or with whatever is urgent before."""
        if self._is_urgent():
            self.now()
        elif self._under_way is None and self._planned is None:
            self._planned = asyncio.get_running_loop().call_later(COMPANY_WITHIN_S, self.now)

    async def flush(self) -> None:
        """Return when all is said."""
        while self._is_more() or self._under_way is not None:
            self.now()
            if self._under_way is not None:
                await self._under_way

    async def _run(self) -> None:
        try:
            await self._call_once()
            while self._is_urgent():
                await self._call_once()
        finally:
            self._under_way = None
            if self._is_more():
                self.soon()
