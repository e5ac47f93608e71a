"""The jobs of this process that have no answer yet: one that should have had it is broken off.

A step that was never taken is a fault of this program, and no reason to let a client wait.
"""

import asyncio
import time
from collections.abc import Callable

from router.jobs.job import Course

# How often it is looked whether jobs are overdue, and when they are: timers and turns of the loop may be late.
_LOOK_EVERY_S, _OVERDUE_S = 1.0, 5.0


class Unanswered(dict[Course, None]):
    """The jobs, in the order of their arrival. `is_watched`: they are looked at again and again."""

    def __init__(self, break_off: Callable[[Course, Exception], None]) -> None:
        super().__init__()
        self.is_watched = False
        self._break_off = break_off

    def watch(self) -> None:
        """Look at them until there are none."""
        asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)
        self.is_watched = True

    def _look(self) -> None:
        self.is_watched = False
        now = time.monotonic()
        try:
            for course in [course for course in self if now > course.ends_at + _OVERDUE_S]:
                self._break_off(course, TimeoutError(f"no answer for {now - course.since:.0f} s"))
        finally:
            if self:
                self.watch()
