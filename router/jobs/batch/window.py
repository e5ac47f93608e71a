"""What of one batch is under way: never more jobs than so many, and never more bytes of them than one body may have.

Whoever wants to begin another waits here for one to end. Where none is under way there is nothing to wait for.
"""

import asyncio

from router.jobs.body_budget import BodyBudget, BodyBudgetFull, BodyShare


class Window:
    """The jobs of one batch that have begun and whose lines are not yet written. One task may wait at a time."""

    def __init__(self, max_jobs: int, max_bytes: int, within: BodyBudget) -> None:
        self.jobs = 0
        self.quiet_since = asyncio.get_running_loop().time()  # when the last one ended
        self._max_jobs = max_jobs
        self._buffers = BodyBudget(max_bytes, within)
        self._has_changed = asyncio.Event()

    def share(self) -> BodyShare:
        """Return a share of the batch's bytes, empty."""
        return self._buffers.share()

    async def has_place(self) -> None:
        """Return when another job may begin."""
        while self.jobs >= self._max_jobs:
            await self._one_ends()

    async def grow(self, share: BodyShare, count: int) -> None:
        """Let `share` grow, once there is room. Raises BodyBudgetFull where none of these jobs could make any."""
        while True:
            try:
                share.grow(count)
            except BodyBudgetFull:
                if not self.jobs:
                    raise
            else:
                return
            await self._one_ends()

    def begin(self) -> None:
        """Count another job."""
        self.jobs += 1

    def end(self) -> None:
        """Count one less."""
        self.jobs -= 1
        self.quiet_since = asyncio.get_running_loop().time()
        self._has_changed.set()

    async def _one_ends(self) -> None:
        self._has_changed.clear()
        await self._has_changed.wait()
