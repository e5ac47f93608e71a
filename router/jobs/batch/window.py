"""Limits how many jobs of one batch run at a time, and how many bytes their bodies have together."""

import asyncio

from router.jobs.body_budget import BodyBudget, BodyBudgetFull, BodyShare


class Window:
    """The jobs of one batch that have begun and whose lines are not written yet.

    `ahead` are those that have been read and will begin.
    """

    def __init__(self, max_jobs: int, max_bytes: int, within: BodyBudget) -> None:
        self.jobs = 0
        self.ahead = 0
        self.quiet_since = asyncio.get_running_loop().time()  # since when a job last ended
        self._max_jobs = max_jobs
        self._buffers = BodyBudget(max_bytes, within)
        self._has_changed = asyncio.Event()

    @property
    def is_busy(self) -> bool:
        """Whether a job runs, or soon will."""
        return bool(self.jobs or self.ahead)

    def share(self) -> BodyShare:
        """Return an empty share of the batch's bytes."""
        return self._buffers.share()

    async def has_place(self) -> None:
        """Return when another job may begin."""
        while self.jobs >= self._max_jobs:
            await self._one_ends()

    async def grow(self, share: BodyShare, count: int) -> None:
        """Let `share` grow once there is room. Raises BodyBudgetFull if no job runs whose end could make room."""
        while True:
            try:
                share.grow(count)
            except BodyBudgetFull:
                if not self.is_busy:
                    raise
            else:
                return
            await self._one_ends()

    def begin(self) -> None:
        """Count a job that begins."""
        self.jobs += 1

    def end(self) -> None:
        """Count a job that has ended."""
        self.jobs -= 1
        self.quiet_since = asyncio.get_running_loop().time()
        self._has_changed.set()

    async def _one_ends(self) -> None:
        self._has_changed.clear()
        await self._has_changed.wait()
