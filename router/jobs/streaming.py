"""A large answer is passed on while its worker still sends it; the job's lease ends with it."""

import asyncio
import time
from collections.abc import Callable
from typing import Self

from router.http.response import Parts, Phase, UpstreamFailed
from router.jobs.job import MAY_BE_THE_JOBS, Job
from router.policy.verdict import Blame
from router.scheduling.leases import Leases
from router.scheduling.pending import Lease


class LeasedParts:
    """The rest of a large answer. The lease ends when it is read to its end, broken off by the worker, or closed.

    The attempt began at `since` (time.monotonic). `is_suspect`: a worker has died while it ran this job. `on_cut` is
    called if the worker breaks the answer off.
    """

    def __init__(
        self,
        rest: Parts,
        leases: Leases,
        lease: Lease,
        blame_at_end: Blame,
        job: Job,
        on_cut: Callable[[UpstreamFailed], None],
        since: float,
        is_suspect: bool,
    ) -> None:
        self._rest = rest
        self._leases = leases
        self._lease: Lease | None = lease
        self._blame_at_end = blame_at_end
        self._job = job
        self._on_cut = on_cut
        self._since = since
        self._is_suspect = is_suspect

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes | memoryview:
        """Return the next part. Raises UpstreamFailed."""
        try:
            return await anext(self._rest)
        except StopAsyncIteration:
            self._end(self._blame_at_end)
            raise
        except UpstreamFailed as failure:
            self._on_cut(failure)
            has_died = failure.phase is Phase.DIED
            blame = Blame.DIED if has_died else Blame.FAULT
            try:
                for _ in self._job.hash_body():  # the job's name is told
                    await asyncio.sleep(0)
            finally:
                self._end(blame, is_over=failure.phase is not Phase.TIMED_OUT, cause=failure.cause)
            raise

    def close(self) -> None:
        """Stop reading, and end the lease."""
        self._rest.close()
        self._end(Blame.NONE)

    def _end(self, blame: Blame, *, is_over: bool = True, cause: str = "") -> None:
        if self._lease is not None:
            named = self._job.name if self._is_suspect or blame in MAY_BE_THE_JOBS else ""
            ran_ms = int((time.monotonic() - self._since) * 1000) if blame is Blame.DIED else 0
            self._leases.end(self._lease, blame, is_over=is_over, job=named, cause=cause, ms=ran_ms)
            self._lease = None
