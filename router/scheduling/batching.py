"""Decides when this process calls the scheduler: one call at a time; what comes up meanwhile goes with the next.

It knows that there is something to say and how urgent that is, but not what it is.
"""

import asyncio
from collections.abc import Callable
from functools import cached_property

# What is not urgent waits so long for more to go with it: a call costs as much as several of the jobs in it. Meanwhile
# nobody waits for the room that it gives, by the last reply; a job that comes to another process may, for as long.
COMPANY_WITHIN_S = 0.005
# How often a process that is about to end looks whether everything has been said.
_LOOK_EVERY_S = 0.005


class CallBatcher:
    """Begins calls with `begin`, one after another, while `is_urgent` says so, or some time after `is_more` says so.

    The owner calls `over` when a call has been answered.
    """

    def __init__(self, begin: Callable[[], None], is_urgent: Callable[[], bool], is_more: Callable[[], bool]) -> None:
        self._begin = begin
        self._is_urgent = is_urgent
        self._is_more = is_more
        self._is_under_way = False
        self._planned: asyncio.TimerHandle | None = None

    def now(self) -> None:
        """Begin a call in this turn of the event loop, or as soon as the present one is over."""
        if self._planned is not None:
            self._planned.cancel()
            self._planned = None
        if not self._is_under_way:
            self._next()

    def soon(self) -> None:
        """Begin a call within COMPANY_WITHIN_S, or earlier with something urgent."""
        if self._is_urgent():
            self.now()
        elif not self._is_under_way and self._planned is None:
            self._planned = self._loop.call_later(COMPANY_WITHIN_S, self.now)

    def over(self) -> None:
        """Take note that the call has been answered, and begin the next one if there is more to say."""
        if self._is_urgent():
            self._next()
            return
        self._is_under_way = False
        if self._is_more():
            self.soon()

    async def flush(self) -> None:
        """Return when everything has been said."""
        while self._is_more() or self._is_under_way:
            self.now()
            await asyncio.sleep(_LOOK_EVERY_S)

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        # Asked for once: Python 3.11 makes a system call each time.
        return asyncio.get_running_loop()

    def _next(self) -> None:
        self._is_under_way = True
        # Not at once: what else comes up in this turn of the event loop goes with it.
        self._loop.call_soon(self._begin)
