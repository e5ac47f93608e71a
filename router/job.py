"""One client's request on its way, and what of a large answer is still to come."""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from typing import Self

import msgspec

from router.bodies import Share
from router.fleet.exchange import Blame
from router.leases import Leases
from router.response import Parts, Phase
from router.upstream import UpstreamFailed
from router.waiter import Lease

_NAME_BYTES = 8
# Where the blame may be the job's own, the exchange is told which one it was: that takes reading its whole body.
MAY_BE_THE_JOBS = (Blame.DIED, Blame.ERROR)


class Job(msgspec.Struct, frozen=True):
    """One client's request, read to its end; `lines` are those of its header fields that go on to the worker.

    `client_s` is how long its client says that it waits. `has_left` returns when it hangs up. `share` counts its body.
    `key_name` is the name of the API key that it came with, empty where that has none, or none is needed.
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
    key_name: str = ""

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

    `on_cut` is told where the worker breaks it off.
    """

    def __init__(
        self,
        rest: Parts,
        leases: Leases,
        lease: Lease,
        blame_at_end: Blame,
        job: Job,
        on_cut: Callable[[UpstreamFailed], None],
    ) -> None:
        self._rest = rest
        self._leases = leases
        self._lease: Lease | None = lease
        self._blame_at_end = blame_at_end
        self._job = job
        self._on_cut = on_cut

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
            self._on_cut(failure)
            has_died = failure.phase is Phase.DIED
            blame = Blame.DIED if has_died else Blame.FAULT
            self._end(blame, is_over=failure.phase is not Phase.TIMED_OUT, cause=failure.cause)
            raise

    def close(self) -> None:
        """Read no further."""
        self._rest.close()
        self._end(Blame.NONE)

    def _end(self, blame: Blame, *, is_over: bool = True, cause: str = "") -> None:
        if self._lease is not None:
            named = self._job.name if blame in MAY_BE_THE_JOBS else ""
            self._leases.end(self._lease, blame, is_over=is_over, job=named, cause=cause)
            self._lease = None
