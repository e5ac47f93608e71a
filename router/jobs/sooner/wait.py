"""A job's wait for a run that is not its own."""

import asyncio
from collections.abc import Callable, Coroutine


class Wait:
    """Calls `be_late` at `until` by the loop's clock, and `leave` when `has_left` returns, unless it is stopped."""

    __slots__ = ("_timer", "_watch")

    def __init__(
        self,
        until: float,
        be_late: Callable[[], None],
        has_left: Callable[[], Coroutine[None, None, None]],
        leave: Callable[[], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_at(until, be_late)
        self._watch = loop.create_task(has_left())
        self._watch.add_done_callback(lambda watch: None if watch.cancelled() else leave())

    def stop(self) -> None:
        """Let it end the wait no more."""
        self._timer.cancel()
        self._watch.cancel()
