"""One client's job, and how far it has come on its way to an answer."""

import asyncio
import hashlib
import re
import time
from collections.abc import Callable, Coroutine, Generator
from functools import lru_cache
from typing import Any, Protocol, TypeAlias

import msgspec

from router.auth.access import Admission
from router.http.answer import Answer
from router.http.response import Body, Phase, Response, UpstreamFailed
from router.jobs.body_budget import BodyShare
from router.jobs.options import NO_OPTIONS, JobOptions
from router.jobs.sooner.groups import Group
from router.jobs.sooner.left_run import LeftRun
from router.jobs.sooner.wait import Wait
from router.policy.deadline import SMALL_BYTES, LimitReader, Limits
from router.policy.large_json import Malformed, finished
from router.policy.placement import ANYWHERE
from router.policy.sizes import kind_of_large
from router.policy.tenants import DEFAULT
from router.policy.verdict import NEVER_RAN, Blame, Kind, Outcome, Verdict, of_answer
from router.scheduling.leases import Leases
from router.scheduling.messages import NO_WISH, Wish
from router.scheduling.pending import Lease, PendingJob
from router.upstream.pool import Request

_NAME_BYTES, _KEY_BYTES = 8, 16
# The fields of a request's head, among those for the worker, that say how its body is to be read.
_OF_BODY = re.compile(rb"^content-.*$", re.MULTILINE)
# A large body is hashed in pieces of this size, so that no other job waits long for its turn.
_PIECE_BYTES = 2**18
# With such a blame the scheduler is told the job's name, because the job may be at fault. Only these cost a hash.
MAY_BE_THE_JOBS = (Blame.DIED, Blame.ERROR)

_BROKEN = {
    Phase.CONNECT: (Kind.NOT_SENT, Blame.AWAY),
    Phase.NO_MEANS: (Kind.NO_MEANS, Blame.NONE),
    Phase.DIED: (Kind.DIED, Blame.DIED),
    Phase.GARBLED: (Kind.FAULT, Blame.FAULT),
    Phase.TIMED_OUT: (Kind.TIMED_OUT, Blame.FAULT),
}
# An unanswered job is looked for this often; it is overdue this long after its end, because timers may be late.
_LOOK_EVERY_S, _OVERDUE_S = 1.0, 5.0


class BodyScan(msgspec.Struct):
    """What was read from a large body piece by piece: an excerpt that holds its time limits, and a hash of 128 bits.

    `kind` is that of policy/sizes, if the job's size counts; else b"". `digest` is b"" until something asks for the
    hash: few jobs need a name, and to hash a large body costs more than to forward it.
    """

    excerpt: bytes
    kind: bytes = b""
    digest: bytes = b""


class Job(msgspec.Struct, frozen=True):
    """One client's request to run code, read to its end.

    `lines` are the header lines for the worker. `has_left` returns when the client hangs up. `share` counts the body's
    bytes. `client_s` is for how many seconds the client waits, None if it did not say. A large job needs a `scan`
    before it begins. `tenant` is "" if the client named nobody. `labels` are those that the client asks for.
    `options` are what few clients say.
    """

    method: bytes
    path: str
    target: bytes
    lines: bytes
    body: Body
    request_id: bytes
    has_left: Callable[[], Coroutine[None, None, None]]
    share: BodyShare
    admission: Admission
    client_s: float | None = None
    scan: BodyScan | None = None
    tenant: str = ""
    labels: tuple[str, ...] = ()
    options: JobOptions = NO_OPTIONS

    @property
    def name(self) -> str:
        """A hash of target and body: the same each time the job is sent."""
        if self.scan is not None:
            return self._digest(self.scan)[:_NAME_BYTES].hex()
        return hashlib.blake2b(self.body, digest_size=_NAME_BYTES, key=self.target[:64]).hexdigest()

    @property
    def key(self) -> str:
        """A hash of all that the result depends on: the same for identical jobs of a tenant, and for no others."""
        of_body = tuple(_OF_BODY.findall(self.lines))
        key: hashlib.blake2b = _of_head(self.tenant or DEFAULT, self.labels, self.target, of_body, self.is_large).copy()
        key.update(self.body if self.scan is None else self._digest(self.scan))
        return key.hexdigest()

    @property
    def is_large(self) -> bool:
        """Whether the body must be read piece by piece."""
        return len(self.body) > SMALL_BYTES

    @property
    def lacks_hash(self) -> bool:
        """Whether to ask for its name or key would hash a large body in one step; `hash_body` does so in pieces."""
        return self.scan is not None and not self.scan.digest

    def scan_body(
        self, reader: LimitReader, *, is_sized: bool = False, is_hashed: bool = False
    ) -> Generator[None, None, BodyScan]:
        """Return the scan of a large body; yields after each piece, so that other jobs get their turns.

        `is_sized`: the scan tells which other jobs are as large. `is_hashed`: the job's name or key will be asked for.
        """
        try:
            excerpt = yield from reader.excerpt(self.body)
        except Malformed:
            excerpt = b""
        scan = BodyScan(excerpt)
        if is_hashed:
            yield from self._hash(scan)
        if is_sized:
            scan.kind = yield from kind_of_large(self.path, self.body)
        return scan

    def hash_body(self) -> Generator[None, None, None]:
        """Hash a large body, unless it is hashed already; yields after each piece."""
        if self.scan is not None and not self.scan.digest:
            yield from self._hash(self.scan)

    def _hash(self, scan: BodyScan) -> Generator[None, None, None]:
        digest = hashlib.blake2b(digest_size=_KEY_BYTES, key=self.target[:64])
        for start in range(0, len(self.body), _PIECE_BYTES):
            digest.update(memoryview(self.body)[start : start + _PIECE_BYTES])
            yield
        scan.digest = digest.digest()

    def _digest(self, scan: BodyScan) -> bytes:
        if not scan.digest:
            finished(self._hash(scan))
        return scan.digest

    def verdict_on(self, outcome: Response | UpstreamFailed) -> Verdict:
        """Return what the outcome of an attempt means."""
        if isinstance(outcome, UpstreamFailed):
            kind, blame = _BROKEN[outcome.phase]
            return Verdict(kind, blame, outcome.cause)
        head, is_whole = outcome.head, outcome.rest is None
        return of_answer(
            self.path, head.status, outcome.body, head.headers, is_whole=is_whole, is_packed=head.is_packed
        )

    async def is_abandoned(self) -> bool:
        """Whether the client has hung up by now."""
        watch = asyncio.create_task(self.has_left())
        await asyncio.wait((watch,), timeout=0)
        return not watch.cancel()  # a task that is done cannot be cancelled


@lru_cache(maxsize=128)  # most jobs have the same
def _of_head(tenant: str, labels: tuple[str, ...], target: bytes, of_body: tuple[bytes, ...], is_large: bool) -> Any:
    """Return the beginning of the hash that is a job's key: of all but its body."""
    return hashlib.blake2b(repr((tenant, sorted(labels), target, of_body, is_large)).encode(), digest_size=_KEY_BYTES)


class FailedAttempt(msgspec.Struct, frozen=True):
    """An attempt without a result. `cause` is prose such as `timed out`; `response` is the worker's, if it sent one."""

    worker_url: str
    cause: str
    kind: Kind
    response: Response | None = None
    took_ms: int = 0


class SecondRun:
    """What is known of a job's second run beside the first.

    `size_ms` is how long the job is expected to take; 0: that is not known. `first` is the first run's lease while the
    job asks for another one, `lease` the second run's. `is_beside`: neither of the two runs has ended. `is_doubtful`:
    the first run's answer counts only if the second one brings none. `spare` is that answer, with its worker and its
    attempt. `attempt` is the second run's number.
    """

    __slots__ = ("attempt", "first", "is_beside", "is_doubtful", "lease", "size_ms", "spare")

    def __init__(self, size_ms: int) -> None:
        self.size_ms = size_ms
        self.first: Lease | None = None
        self.lease: Lease | None = None
        self.attempt = 0
        self.is_beside = self.is_doubtful = False
        self.spare: tuple[Response, str, int] | None = None


# Called once with a job's answer; with None if its client left while the job waited.
AnswerCallback: TypeAlias = Callable[[Answer | None], None]


class JobHooks(Protocol):
    """Is told how one job goes on, for traces. A job has at most two attempts at a time, on different workers."""

    @property
    def lines(self) -> bytes:
        """The header lines for the worker, in place of the job's own."""

    def attempt_begins(self, worker_url: str, request: Request) -> Request:
        """Return the request to send in this attempt."""

    def attempt_ends(self, worker_url: str, outcome: Response | UpstreamFailed, kind: Kind) -> None:
        """Hear what the attempt on this worker brought, and of what kind that is."""

    def job_ends(self, status: int, outcome: Outcome, pool: str) -> None:
        """Hear of the job's answer, and which pool it was of. An attempt may go on after it."""


class JobRun:
    """How far a job has come. Times are time.monotonic().

    - `text` is what is read from the body: all of it, or the excerpt of a large one.
    - `deliver` takes the answer; None once it has been called. At `ends_at` the client gets an answer in any case.
    - `pending` waits for a lease; `lease` is the running attempt's. At `room_by` the job has waited long enough.
    - `placement` tells whose job it is, and which workers can run it. `wish` is what it asks for besides a lease.
    - `is_sized`: what its attempt takes is learned.
    - `began` is when its last attempt began. `second` is its second run, once the job has been looked at for one.
    - `group` is the group that the job belongs to, if that stops on failure.
    - `is_awaited`: an attempt is running, and its client has not yet been told that it takes too long. Its `timer`
      tells the client.
    - `is_retry`: the next lease is for a retry.
    - `never_ran`: how the last attempt ended, if its worker never ran the job.
    - `failed` are the attempts without a result. `unreached` are those that could not connect after another attempt
      had failed. `doubts` are the leases of failed attempts whose errors may be the job's own, with these errors.
    - `late_share` counts the body for an attempt that goes on after its job's end.
    - `sharing` are the jobs that share one run with this one. `is_reused`: it has got another one's answer.
    - `left` is the run as the next identical job may get it. `is_adopted`: this job has what another one had left.
    """

    __slots__ = (
        *("began", "deliver", "doubts", "ends_at", "failed", "group", "hooks", "is_adopted", "is_awaited", "is_retry"),
        *("is_reused", "is_sized", "job", "late_share", "lease", "left", "limits", "never_ran", "pending"),
        *("placement", "queue_ms", "request", "room_by", "second", "sharing", "since", "text", "ticket"),
        *("timer", "unreached", "wish"),
    )

    # Set when the job's body and head have been read, which may fail.
    request: Request
    limits: Limits

    def __init__(self, job: Job, since: float, room_by: float, deliver: AnswerCallback) -> None:
        self.job = job
        self.text: bytes = job.body if job.scan is None else job.scan.excerpt  # type: ignore[assignment]  # no view is small
        self.since = self.ends_at = since
        self.deliver: AnswerCallback | None = deliver
        self.hooks: JobHooks | None = None
        self.placement = ANYWHERE
        self.wish: Wish | None = None
        self.group: Group | None = None
        self.ticket = 0
        self.queue_ms = 0
        self.is_awaited = self.is_sized = self.is_adopted = self.is_reused = False
        self.sharing: Sharing | None = None
        self.left: LeftRun | None = None
        self.began = 0.0
        self.second: SecondRun | None = None
        self.room_by = room_by
        self.is_retry = False
        self.never_ran: Kind | None = None
        self.unreached: tuple[FailedAttempt, ...] = ()
        self.doubts: tuple[tuple[Lease, str], ...] = ()
        self.failed: list[FailedAttempt] = []
        self.pending: PendingJob | None = None
        self.lease: Lease | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.late_share: BodyShare | None = None

    @property
    def is_suspect(self) -> bool:
        """Whether a worker has died while it ran this job."""
        return any(attempt.kind is Kind.DIED for attempt in self.failed)

    @property
    def kinds(self) -> list[Kind]:
        """How the failed attempts ended."""
        return [attempt.kind for attempt in self.failed]

    @property
    def tried(self) -> tuple[str, ...]:
        """The workers that the next attempt should avoid."""
        return tuple([attempt.worker_url for attempt in (*self.failed, *self.unreached)])

    @property
    def has_second(self) -> bool:
        """Whether the job has, has had or asks for a second run beside the first."""
        second = self.second
        return second is not None and (second.first is not None or second.lease is not None)

    @property
    def has_two_runs(self) -> bool:
        """Whether neither of the job's two runs has ended, but for the one whose end is just taken in."""
        return self.second is not None and self.second.is_beside

    @property
    def under_way(self) -> list[Lease]:
        """The leases of the running attempts."""
        second = self.second
        leases = (self.lease, second.lease if second is not None and second.is_beside else None)
        return [lease for lease in leases if lease is not None]

    def fail(self, attempt: FailedAttempt, took_s: float) -> None:
        """Keep an attempt without a result. If the job never ran, `took_s` does not count as waiting for room."""
        self.never_ran = attempt.kind if attempt.kind in NEVER_RAN else None
        if self.never_ran is None:
            self.failed.append(attempt)
            return
        self.room_by += took_s
        if self.never_ran is Kind.NOT_SENT and self.failed:
            self.unreached = (*self.unreached, attempt)

    def wish_for(self, **fields: object) -> None:
        """Have the job ask for this, too: fields of Wish."""
        self.wish = msgspec.structs.replace(self.wish or NO_WISH, **fields)

    def drop_doubts(self, leases: Leases) -> None:
        """Blame no worker for errors that may be the job's own, for no other worker has done the job."""
        doubts, self.doubts = self.doubts, ()
        if doubts:
            leases.resolve(doubts, Blame.NONE)

    def give_lease_back(self, leases: Leases) -> None:
        """End the leases that the job has, and blame nobody."""
        held, self.lease = self.under_way, None
        if self.second is not None:
            self.second.is_beside = False
        for lease in held:
            leases.end(lease, Blame.NONE)

    def release_late_share(self) -> None:
        """Count the body no longer, if the last attempt that has outlived its job is over."""
        if self.late_share is not None and not self.under_way:
            self.late_share.give_back()


class Sharing:
    """Jobs of this process that share one run: `owner` has it or waits for another process', and `others` wait for it.

    Its answer may be kept for `keep_ms`, if it is not larger than `max_bytes`. `waits` are what would end the wait of
    each job. `is_woken`: the run of the other process is over, and `owner` is just asking.
    """

    __slots__ = ("is_woken", "keep_ms", "key", "leave", "max_bytes", "others", "owner", "waits")

    def __init__(self, key: str, owner: JobRun, keep_ms: int, max_bytes: int, leave: Callable[[JobRun], None]) -> None:
        self.key = key
        self.owner = owner
        self.keep_ms = keep_ms
        self.max_bytes = max_bytes
        self.leave = leave
        self.others: dict[JobRun, None] = {}
        self.waits: dict[JobRun, Wait] = {}
        self.is_woken = False


class Unanswered(dict[JobRun, None]):
    """The jobs of this process without an answer, in order of arrival.

    One that is overdue is broken off: a step that was never taken is a fault of this program, and its client must not
    wait for ever. `is_watched`: a timer looks for overdue jobs.
    """

    def __init__(self, break_off: Callable[[JobRun, Exception], None]) -> None:
        super().__init__()
        self.is_watched = False
        self._break_off = break_off

    def watch(self) -> None:
        """Look for overdue jobs until there are no jobs."""
        asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)
        self.is_watched = True

    def _look(self) -> None:
        self.is_watched = False
        now = time.monotonic()
        try:
            for run in [run for run in self if now > run.ends_at + _OVERDUE_S]:
                self._break_off(run, TimeoutError(f"no answer for {now - run.since:.0f} s"))
        finally:
            if self:
                self.watch()
