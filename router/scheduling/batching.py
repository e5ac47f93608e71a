"""When this process calls the scheduler: one call at a time, and whoever comes while it is under way shares the next.

It knows only that there is something to say and how urgent it is, not what.
"""

import asyncio
from collections.abc import Callable

# What is not urgent waits so long for company: a call costs Redis and this process as much as several jobs in it.
COMPANY_WITHIN_S = 0.001
# How often a process that is to end looks whether all is said.
_LOOK_EVERY_S = 0.005


class CallBatcher:
    """Begins a call by `begin` as long as there is something urgent to say; `is_more` tells of what can wait.

    Whoever began a call says when it is `over`.
    """

    def __init__(self, begin: Callable[[], None], is_urgent: Callable[[], bool], is_more: Callable[[], bool]) -> None:
        self._begin = begin
        self._is_urgent = is_urgent
        self._is_more = is_more
        self._is_under_way = False
        self._planned: asyncio.TimerHandle | None = None

    def now(self) -> None:
        """Call at once, or next."""
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        if not self._is_under_way:
            self._next()

    def soon(self) -> None:
        """Call in a moment, or with whatever is urgent before."""
        if self._is_urgent():
            self.now()
        elif not self._is_under_way and self._planned is None:
            self._planned = asyncio.get_running_loop().call_later(COMPANY_WITHIN_S, self.now)

    def over(self) -> None:
        """Go on: the call that was begun has been answered."""
        if self._is_urgent():
            self._next()
            return
        self._is_under_way = False
        if self._is_more():
            self.soon()

    async def flush(self) -> None:
        """Return when all is said."""
        while self._is_more() or self._is_under_way:
            self.now()
            await asyncio.sleep(_LOOK_EVERY_S)

    def _next(self) -> None:
        self._is_under_way = True
        # Not at once: who else has something to say in this turn of the loop goes along.
        asyncio.get_running_loop().call_soon(self._begin)
