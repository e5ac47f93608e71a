"""One client's request on its way, and what of a large answer is still to come."""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine, Generator

import msgspec

from router.http.answer import Answer
from router.http.response import Body, Phase, Response, UpstreamFailed
from router.jobs.body_budget import BodyShare
from router.policy.deadline import SMALL_BYTES, LimitReader, Limits
from router.policy.large_json import Malformed
from router.policy.verdict import NEVER_RAN, Blame, Kind, Verdict, of_answer
from router.scheduling.pending import Lease, PendingJob
from router.upstream.pool import Request

_NAME_BYTES = 8
# Hashing so much takes 0.3 ms.
_PIECE_BYTES = 2**18
# Where the blame may be the job's own, the scheduler is told which one it was: that takes reading its whole body.
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
    share: BodyShare
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


class FailedAttempt(msgspec.Struct, frozen=True):
    """One attempt that brought no result; `cause` is prose such as `timed out`. `response` is what the worker said."""

    worker_url: str
    cause: str
    kind: Kind
    response: Response | None = None


Deliver = Callable[[Answer | None], None]


class Course:
    """How far a job has come. At `ends_at` (time.monotonic) its client has its answer, whatever it is.

    `deliver` is None once that is done. `waits` is what it waits for a lease with, `lease` what its attempt runs under.
    `is_awaited`: an attempt is under way, and its client has not been told that it takes too long. At `room_by` it has
    waited for room long enough. `is_retry`: its next lease is for one. `never_ran` says how its last attempt ended
    where that was none. `unreached` are the workers that it did not get to after others had failed it. `doubts` are
    its attempts whose errors may be its own: their leases, and what the errors were.
    """

    __slots__ = (
        *(
            "deliver",
            "doubts",
            "ends_at",
            "failed",
            "is_awaited",
            "is_retry",
            "job",
            "late_share",
            "lease",
            "limits",
            "never_ran",
            "queue_ms",
            "request",
            "room_by",
            "unreached",
            "since",
            "ticket",
        ),
        *("timer", "waits"),
    )

    # Both are read from the job once its course has begun, for that may fail.
    request: Request
    limits: Limits

    def __init__(self, job: Job, since: float, room_by: float, deliver: Deliver) -> None:
        self.job = job
        self.since = self.ends_at = since
        self.deliver: Deliver | None = deliver
        self.ticket = 0
        self.queue_ms = 0
        self.is_awaited = False
        self.room_by = room_by
        self.is_retry = False
        self.never_ran: Kind | None = None
        self.unreached: tuple[FailedAttempt, ...] = ()
        self.doubts: tuple[tuple[Lease, str], ...] = ()
        self.failed: list[FailedAttempt] = []
        self.waits: PendingJob | None = None
        self.lease: Lease | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.late_share: BodyShare | None = None  # holds the body for an attempt that outlives its job

    @property
    def is_suspect(self) -> bool:
        """Whether a worker has broken down while it ran this job."""
        return any(attempt.kind is Kind.DIED for attempt in self.failed)

    @property
    def kinds(self) -> list[Kind]:
        """How its attempts have ended."""
        return [attempt.kind for attempt in self.failed]

    @property
    def tried(self) -> tuple[str, ...]:
        """The workers that have failed it, or that it did not get to then."""
        return tuple([attempt.worker_url for attempt in (*self.failed, *self.unreached)])

    def fail(self, attempt: FailedAttempt, took_s: float) -> None:
        """Keep in mind an attempt that brought no result, and whether it was one; `took_s` was no wait for room."""
        self.never_ran = attempt.kind if attempt.kind in NEVER_RAN else None
        if self.never_ran is None:
            self.failed.append(attempt)
            return
        self.room_by += took_s
        if self.never_ran is Kind.NOT_SENT and self.failed:
            self.unreached = (*self.unreached, attempt)

    def let_go(self) -> None:
        """Count the body no longer, where an attempt has outlived its job."""
        if self.late_share is not None:
            self.late_share.give_back()
