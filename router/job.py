"""One client's request on its way, and what of a large answer is still to come."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Generator
from typing import Self

import msgspec

from router.bodies import Body, Share
from router.fleet.exchange import Blame
from router.leases import Leases
from router.policy.deadline import SMALL_BYTES, LimitReader
from router.policy.large_json import Malformed
from router.policy.verdict import Kind, Verdict, of_answer
from router.response import Parts, Phase, Response
from router.upstream import UpstreamFailed
from router.waiter import Lease

_NAME_BYTES = 8
# Hashing so much takes 0.3 ms.
_PIECE_BYTES = 2**18
# Where the blame may be the job's own, the exchange is told which one it was: that takes reading its whole body.
MAY_BE_THE_JOBS = (Blame.DIED, Blame.ERROR)

_BROKEN = {
    Phase.CONNECT: (Kind.NOT_SENT, Blame.AWAY),
    Phase.NO_MEANS: (Kind.NO_MEANS, Blame.NONE),
    Phase.DIED: (Kind.DIED, Blame.DIED),
    Phase.GARBLED: (Kind.FAULT, Blame.FAULT),
    Phase.TIMED_OUT: (Kind.TIMED_OUT, Blame.FAULT),
}


class Seen(msgspec.Struct, frozen=True):
    """What is found in a large body, a piece at a time: its excerpt, in which its limits stand, and its job's name."""

    excerpt: bytes
    name: str


class Job(msgspec.Struct, frozen=True):
    """One client's request, read to its end; `lines` are those of its header fields that go on to the worker.

    `client_s` is how long its client says that it waits. `has_left` returns when it hangs up. `share` counts its body;
    where that is large, `seen` has been found in it before. `key_name` is the name of the API key that it came with,
    empty where that has none, or none is needed.
    """

    method: bytes
    path: str
    target: bytes
    lines: bytes
    body: Body
    request_id: bytes
    has_left: Callable[[], Coroutine[None, None, None]]
    share: Share
    client_s: float | None = None
    key_name: str = ""
    seen: "Seen | None" = None

    @property
    def name(self) -> str:
        """A hash of what is asked: the same whenever it is sent again."""
        return self.seen.name if self.seen is not None else self._hash(self.body).hexdigest()

    @property
    def is_large(self) -> bool:
        """Whether its body has to be looked at a piece at a time."""
        return len(self.body) > SMALL_BYTES

    def look(self, reader: LimitReader) -> Generator[None, None, Seen]:
        """Return, after pauses, what stands in a large body."""
        try:
            excerpt = yield from reader.excerpt(self.body)
        except Malformed:
            excerpt = b""
        name = self._hash()
        for start in range(0, len(self.body), _PIECE_BYTES):
            name.update(self.body[start : start + _PIECE_BYTES])
            yield
        return Seen(excerpt, name.hexdigest())

    def _hash(self, body: Body = b"") -> hashlib.blake2b:
        return hashlib.blake2b(body, digest_size=_NAME_BYTES, key=self.target[:64])

    def verdict_on(self, outcome: Response | UpstreamFailed) -> Verdict:
        """Return what an attempt at it means."""
        if isinstance(outcome, UpstreamFailed):
            kind, blame = _BROKEN[outcome.phase]
            return Verdict(kind, blame, outcome.cause)
        head, is_whole = outcome.head, outcome.rest is None
        return of_answer(
            self.path, head.status, outcome.body, head.headers, is_whole=is_whole, is_packed=head.is_packed
        )

    async def is_abandoned(self) -> bool:
        """Whether its client has hung up by now."""
        watch = asyncio.create_task(self.has_left())
        await asyncio.wait((watch,), timeout=0)
        return not watch.cancel()  # what is done cannot be cancelled


class LeasedParts:
    """The rest of a large answer. Its lease ends with it: read to its end, broken off by the worker, or not wanted.

    The attempt began at `since` (time.monotonic). `is_suspect`: a worker has broken down while it ran this job.
    `on_cut` is told where the worker breaks the answer off.
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
            named = self._job.name if self._is_suspect or blame in MAY_BE_THE_JOBS else ""
            ran_ms = int((time.monotonic() - self._since) * 1000) if blame is Blame.DIED else 0
            self._leases.end(self._lease, blame, is_over=is_over, job=named, cause=cause, ms=ran_ms)
            self._lease = None
