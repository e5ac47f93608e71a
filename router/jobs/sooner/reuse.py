"""Identical jobs share one run, and its answer serves further ones for a while: for tenants and jobs that ask for it.

Within this process jobs share a run without the scheduler. Between processes the scheduler knows the runs and keeps
the answers. A job that waits for another process' run asks again when that run is over, and every second besides: it
then gets the answer, or is the next one with a run. So nothing that is lost makes a job wait for ever.
"""

import logging
import time
from collections.abc import Callable
from functools import partial

import msgspec

from router.http.headers import WorkerHead
from router.http.response import Response
from router.jobs.answers import ErrorAnswers
from router.jobs.ending import Endings
from router.jobs.job import JobRun, Sharing
from router.jobs.sooner.wait import Wait
from router.jobs.tenants import Tenants
from router.policy.tenants import TenantRule
from router.policy.verdict import is_final, may_be_final
from router.scheduling.inbox import Inbox
from router.scheduling.left_behind import LeftBehind
from router.scheduling.messages import RunOver, SharedRun
from router.scheduling.pending import ClientLeft, NoRoom, PendingJob, RunsElsewhere
from router.telemetry.recorder import Recorder

log = logging.getLogger(__name__)

# A job that waits for another process' run asks again this often.
_ASK_EVERY_S = 1.0
# After a run without an answer for others, all jobs that waited for it have asked again within this time.
_APART_MS = int(2000 * _ASK_EVERY_S)
_PLAIN_RULE = TenantRule()


class Woken(msgspec.Struct, frozen=True, tag="reuse"):
    """The run that jobs with this key waited for is over."""

    key: str


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    """A worker's whole answer as it came, in which attempt, and how long that took."""

    worker_url: str
    attempt: int
    took_ms: int
    head: WorkerHead
    body: bytes


_encode, _decode = msgspec.json.Encoder().encode, msgspec.json.Decoder(_Kept).decode


class Reuse:
    """The shared runs of this process. `ask` has a job ask for a lease."""

    def __init__(
        self,
        left_behind: LeftBehind,
        tenants: Tenants,
        endings: Endings,
        errors: ErrorAnswers,
        recorder: Recorder,
        ask: Callable[[JobRun], None],
    ) -> None:
        self._left_behind = left_behind
        self._tenants = tenants
        self._endings = endings
        self._errors = errors
        self._recorder = recorder
        self._ask = ask
        self._by_key: dict[str, Sharing] = {}

    def hear(self, inbox: Inbox) -> None:
        """Hear of other processes' runs through `inbox`."""
        inbox.hear(Woken, self._woken)

    def joins(self, run: JobRun) -> bool:
        """Let the job wait, if an identical one of this process has a run. Else return False: others share its own."""
        rule = (self._tenants.rule_of(run.job.tenant) or _PLAIN_RULE).reuse
        seconds = rule.seconds if run.job.options.reuse_s is None else run.job.options.reuse_s
        if not seconds or not may_be_final(run.job.path):
            return False
        key = run.job.key
        run.sharing = sharing = self._by_key.get(key)
        if sharing is not None:
            sharing.others[run] = None
            self._wait(run, sharing, run.ends_at)
            return True
        keep_ms = max(1, int(seconds * 1000))  # 0 would say that it shares nothing
        run.sharing = self._by_key[key] = Sharing(key, run, keep_ms, rule.max_kb * 1024, self._left)
        run.wish_for(key=key, reuse_ms=keep_ms)
        return False

    def refuse(self, run: JobRun, reason: NoRoom, pending: PendingJob | None) -> None:
        """End a job that shares runs and gets no lease, unless an identical one has a run."""
        if isinstance(reason, RunsElsewhere):
            self._told(run, reason.shared)
            return
        if pending is not None:
            run.ticket = pending.arrival.ticket
        self._endings.refuse(run, reason, pending)

    def _told(self, run: JobRun, shared: SharedRun) -> None:
        """Go on with what the scheduler knows of an identical job: its answer, or that another process has its run."""
        sharing = run.sharing
        if sharing is None or run.deliver is None:  # the job has been broken off
            return
        run.ticket = shared.ticket
        if shared.answer:
            self._serve(sharing, shared.answer)
        elif sharing.is_woken:
            self._ask_again(run, sharing)
        else:
            self._wait(run, sharing, min(run.ends_at, time.monotonic() + _ASK_EVERY_S))

    def bring(self, run: JobRun, response: Response, worker_url: str, took_s: float) -> None:
        """Give the answer of a shared run to all jobs that share it, and keep it; or let each run by itself."""
        sharing = run.sharing
        if sharing is None:
            return
        kept = None
        if response.rest is None and is_final(run.job.path, response.head.status, response.body):
            kept = _Kept(worker_url, len(run.failed) + 1, int(took_s * 1000), response.head, bytes(response.body))
        self._close(sharing, kept)

    # How a shared run ends

    def _left(self, run: JobRun) -> None:
        """Let a job that has ended share no more. If its run never came to its end, another one has the next."""
        sharing = run.sharing
        if sharing is None:
            return
        if run is not sharing.owner:
            self._stop(run, sharing)
            run.sharing = None
        elif run.lease is not None:
            return  # its attempt goes on
        elif run.failed:
            self._close(sharing, None)
        else:
            ticket = run.ticket if run.pending is None else run.pending.arrival.ticket or run.ticket
            self._stop(run, sharing)
            run.sharing = None
            self._next(sharing, ticket)

    def _next(self, sharing: Sharing, ticket: int) -> None:
        """Give the run, in its place in the queue, to the job that waits longest."""
        run = next(iter(sharing.others), None)
        if run is None:
            del self._by_key[sharing.key]
            self._left_behind.end_shared(RunOver(sharing.key))
            return
        self._stop(run, sharing)
        sharing.owner, run.ticket = run, ticket
        run.wish_for(key=sharing.key, reuse_ms=sharing.keep_ms)
        self._ask(run)

    def _close(self, sharing: Sharing, kept: _Kept | None) -> None:
        """End the sharing after a run of this process; None: it has brought nothing that other jobs may have."""
        text = b"" if kept is None or len(kept.body) > sharing.max_bytes else _encode(kept)
        ms = sharing.keep_ms if text else _APART_MS
        self._left_behind.end_shared(RunOver(sharing.key, ms, text.decode("ascii")))
        self._end(sharing, kept)

    def _serve(self, sharing: Sharing, text: str) -> None:
        """Answer all jobs that share a run with the answer that is kept of it."""
        try:
            kept: _Kept | None = _decode(text)
        except msgspec.DecodeError:  # another release has kept it
            kept = None
        owner = sharing.owner
        owner.sharing = None
        self._end(sharing, kept)
        self._go_on(owner, kept)

    def _end(self, sharing: Sharing, kept: _Kept | None) -> None:
        del self._by_key[sharing.key]
        sharing.owner.sharing = None
        for run in list(sharing.others):
            self._stop(run, sharing)
            run.sharing = None
            self._go_on(run, kept)

    def _go_on(self, run: JobRun, kept: _Kept | None) -> None:
        """Answer a job that has shared a run; without an answer it runs by itself."""
        if kept is None:
            if run.wish is not None:
                run.wish_for(key="", reuse_ms=0)
            self._ask(run)
            return
        run.is_reused = True
        self._recorder.reused(run.placement.tenant, kept.took_ms / 1000)
        self._endings.end_with_anothers(run, Response(kept.head, kept.body), kept.worker_url, kept.attempt)

    # Waiting for a run

    def _wait(self, run: JobRun, sharing: Sharing, until: float) -> None:
        leave = partial(self._endings.refuse, run, ClientLeft())
        sharing.waits[run] = Wait(until, partial(self._look, run, sharing), run.job.has_left, leave)

    def _stop(self, run: JobRun, sharing: Sharing) -> None:
        sharing.others.pop(run, None)
        wait = sharing.waits.pop(run, None)
        if wait is not None:
            wait.stop()

    def _look(self, run: JobRun, sharing: Sharing) -> None:
        """End the wait of a job whose time is over; else ask again."""
        if time.monotonic() >= run.ends_at or run is not sharing.owner:
            self._endings.end(run, self._errors.deadline_passed(run))
        else:
            self._ask_again(run, sharing)

    def _ask_again(self, run: JobRun, sharing: Sharing) -> None:
        self._stop(run, sharing)
        sharing.is_woken = False
        self._ask(run)

    def _woken(self, note: Woken) -> None:
        sharing = self._by_key.get(note.key)
        if sharing is None:
            return
        if sharing.owner in sharing.waits:
            self._ask_again(sharing.owner, sharing)
        else:
            sharing.is_woken = True
