"""One client's request on its way, and what of a large answer is still to come."""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Self

import msgspec

from router.bodies import Share
from router.fleet.exchange import Blame
from router.leases import Leases
from router.response import Parts, Phase
from router.tally import Tally
from router.upstream import UpstreamFailed
from router.waiter import Lease

log = logging.getLogger(__name__)

_NAME_BYTES = 8
# Where the blame may be the job's own, the exchange is told which one it was: that takes reading its whole body.
MAY_BE_THE_JOBS = (Blame.DIED, Blame.ERROR)


class Job(msgspec.Struct, frozen=True):
    """One client's request, read to its end; `lines` are those of its header fields that go on to the worker.

    `client_s` is how long its client says that it waits. `has_left` returns when it hangs up. `share` counts its body.
    """

    method: bytes
    path: str
    target: bytes
    lines: bytes
    body: bytes
    request_id: bytes
    has_left: Callable[[], Coroutine[None, None, None]]
    share: Share
    client_s: float | None = None

    @property
    def name(self) -> str:
        """A hash of what is asked: the same whenever it is sent again."""
        return hashlib.blake2b(self.body, digest_size=_NAME_BYTES, key=self.target[:64]).hexdigest()

    async def is_abandoned(self) -> bool:
        """Whether its client has hung up by now."""
        watch = asyncio.create_task(self.has_left())
        await asyncio.wait((watch,), timeout=0)
        return watch.done() or not watch.cancel()


class LeasedParts:
    """The rest of a large answer. Its lease ends with it: read to its end, broken off by the worker, or not wanted.

    The attempt began at `since` (time.monotonic). `is_suspect`: a worker has broken down while it ran this job.
    """

    def __init__(
        self,
        rest: Parts,
        leases: Leases,
        lease: Lease,
        blame_at_end: Blame,
        job: Job,
        tally: Tally,
        since: float,
        is_suspect: bool,
    ) -> None:
        self._rest = rest
        self._leases = leases
        self._lease: Lease | None = lease
        self._blame_at_end = blame_at_end
        self._job = job
        self._tally = tally
        self._since = since
        self._is_suspect = is_suspect

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next part."""
        try:
            return await anext(self._rest)
        except StopAsyncIteration:
            self._end(self._blame_at_end)
            raise
        except UpstreamFailed as failure:
            log.warning("%s, when a part of its answer had gone to the client", failure)
            self._tally.answer_cut(failure.worker_url)
            has_died = failure.phase is Phase.DIED
            self._end(Blame.DIED if has_died else Blame.FAULT, is_over=failure.phase is not Phase.TIMED_OUT)
            raise

    def close(self) -> None:
        """Read no further."""
        self._rest.close()
        self._end(Blame.NONE)

    def _end(self, blame: Blame, *, is_over: bool = True) -> None:
        if self._lease is not None:
            is_named = self._is_suspect or blame in MAY_BE_THE_JOBS
            ran_ms = int((time.monotonic() - self._since) * 1000) if blame is Blame.DIED else 0
            self._leases.end(self._lease, blame, is_over=is_over, job=self._job.name if is_named else "", ms=ran_ms)
            self._lease = None
