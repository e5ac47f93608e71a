"""A batch: many jobs in one request, each answered on a line of its own as soon as it is done.

Each job goes the way of a single one (jobs/dispatcher.py). This room adds a limit: at most `batch.max_in_flight` jobs
of a batch, with the bytes of one largest body, run at a time. A job counts until its line is written, so no job begins
for a client that does not read. Jobs begin as they come, or, where that is asked for, in an order of their own.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from http import HTTPStatus

import msgspec

from router.auth.access import Admission
from router.config.settings import Settings
from router.http.answer import RETRY_AFTER_S, Answer, problem
from router.http.asgi import (
    CLIENT_LEFT,
    STOPPING,
    Application,
    Receive,
    Scope,
    Send,
    leaving,
    request_id_of,
    send_answer,
)
from router.http.headers import Head, read_head
from router.jobs import job_log
from router.jobs.answers import buffers_full
from router.jobs.batch.body import STOPPED, BatchBody, BatchRefused, CutShort, Entry
from router.jobs.batch.hints import NO_HINTS
from router.jobs.batch.lines import AnswerLines
from router.jobs.batch.query import read_query
from router.jobs.batch.sight import Seen, Sight
from router.jobs.batch.window import Window
from router.jobs.body_budget import BodyBudget, BodyBudgetFull, BodyShare
from router.jobs.dispatcher import Dispatcher
from router.jobs.endpoints import BadHead, client_s_of, labels_of, options_of, tenant_of
from router.jobs.handler import ADMISSION
from router.jobs.job import Job, JobRun
from router.jobs.sooner.sizes import Sizes
from router.policy.request_head import Refusal
from router.policy.tenants import LONGEST_FIRST
from router.policy.verdict import Outcome
from router.scheduling.pending import ClientLeft
from router.telemetry.recorder import Recorder

log = logging.getLogger(__name__)

PATH = "/run_code/batch"
MEDIA_TYPE = b"application/x-ndjson"
JOB_PATH = "/run_code"
_JSON = (b"content-type", b"application/json")


class BatchHandler:
    """An ASGI application that takes batches and passes all other requests on to `rest`.

    A batch must come through JobHandler, which leaves its Admission in the scope's state.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        rest: Application,
        buffers: BodyBudget,
        settings: Settings,
        recorder: Recorder,
        sizes: Sizes,
    ) -> None:
        self._dispatcher = dispatcher
        self._rest = rest
        self._buffers = buffers
        self._settings = settings
        self._recorder = recorder
        self._sizes = sizes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http" or scope["path"] != PATH:
            await self._rest(scope, receive, send)
            return
        head = read_head([field for field in scope["headers"] if field[0] != _JSON[0]] + [_JSON])  # as each job has it
        request_id = request_id_of(head)
        try:
            if refusal := _refusal(scope):
                raise BatchRefused(refusal)
            common = self._dispatcher, self._buffers, self._settings, self._recorder, self._sizes
            await _Batch(*common, scope, receive, send, head, request_id).run()
        except ClientLeft:
            return
        except BatchRefused as error:
            answer = problem(error.refusal.status, error.refusal.detail, request_id)
            if error.refusal.status == HTTPStatus.METHOD_NOT_ALLOWED:
                answer = answer.with_field(b"allow", b"POST")
        except BadHead as error:
            answer = problem(HTTPStatus.BAD_REQUEST, str(error), request_id)
        except CutShort as cut:
            answer = problem(HTTPStatus.SERVICE_UNAVAILABLE, f"Nothing has begun: {cut}", request_id)
        except BodyBudgetFull:
            answer = buffers_full(self._settings.error_status.queue_full, self._buffers.max_bytes, request_id)
        else:
            return
        self._recorder.refused(answer.status, answer.outcome, PATH)
        job_log.refused(self._recorder, request_id, PATH, _admission(scope).key_name, answer)
        await send_answer(answer, receive, send)


def _admission(scope: Scope) -> Admission:
    """Return the batch's admission. Raises KeyError if it did not come through JobHandler."""
    admission: Admission = scope["state"][ADMISSION]
    return admission


def _refusal(scope: Scope) -> Refusal | None:
    if scope["method"] != "POST":
        return Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed")
    for name, value in scope["headers"]:
        if name == b"content-encoding" and value.lower() != b"identity":
            detail = f"expected a batch without Content-Encoding, got {value.decode('latin-1')}"
            return Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail)
    return None


class _Batch:
    """One batch and its answer."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        buffers: BodyBudget,
        settings: Settings,
        recorder: Recorder,
        sizes: Sizes,
        scope: Scope,
        receive: Receive,
        send: Send,
        head: Head,
        request_id: bytes,
    ) -> None:
        self._dispatcher = dispatcher
        self._buffers = buffers
        self._settings = settings
        self._recorder = recorder
        self._receive = receive
        self._send = send
        self._request_id = request_id
        self._admission = _admission(scope)
        self._lines = head.lines
        self._client_s = client_s_of(head)
        self._tenant, self._labels = tenant_of(self._admission, head), labels_of(head)
        query = read_query(scope["query_string"])
        is_ordered = (query.order or dispatcher.order_of(self._tenant)) == LONGEST_FIRST
        options = options_of(head)
        if is_ordered:
            options = msgspec.structs.replace(options, is_sized=True)
        # Groups of this batch alone: all its jobs, or those whose lines name the same one.
        self._groups, self._scope = dispatcher.groups, ""
        if query.stops_on_failure or options.stops_on_failure:
            self._scope = self._groups.open()
            scope_of_all = "" if options.group else self._scope
            options = msgspec.structs.replace(options, stops_on_failure=True, scope=scope_of_all)
        self._options = options
        self._target = JOB_PATH.encode("ascii") + (b"?" + query.rest if query.rest else b"")
        self._max_bytes = int(settings.max_body_mb * 2**20)
        looks_ahead = is_ordered or bool(self._scope)
        ahead_bytes = int(settings.batch.look_ahead_mb * 2**20) if looks_ahead else 0
        self._in_flight = Window(settings.batch.max_in_flight, self._max_bytes + ahead_bytes, buffers)
        self._sight: Sight | None = None
        if looks_ahead:
            bounds, by_group = (ahead_bytes, self._in_flight, buffers), bool(self._scope)
            self._sight = Sight(*bounds, sizes if is_ordered else None, by_group=by_group)
        self._client_left, self._stopping = asyncio.Event(), asyncio.Event()
        self._runs: dict[int, JobRun] = {}
        scope["state"].update({CLIENT_LEFT: self._client_left, STOPPING: self._stopping})
        self._body = BatchBody(receive, self._in_flight, buffers, settings, dispatcher.turns, self._stopping.is_set)
        self._count = 0
        self._answers = AnswerLines(send, dispatcher.turns, buffers, settings, self._lost, self._client_left)

    async def run(self) -> None:
        """Answer the batch. Raises ClientLeft, BatchRefused, BodyBudgetFull and CutShort before the answer begins.

        An answer that lacks some jobs' lines is left without its end, so that uvicorn closes the connection short.
        """
        try:
            await self._answer()
        finally:
            if self._scope:
                self._groups.close(self._scope)

    async def _answer(self) -> None:
        async with aclosing(self._body.entries()) as entries:
            first = await anext(entries, None)
            fields = [(b"content-type", MEDIA_TYPE), (b"x-request-id", self._request_id)]
            await self._send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": fields})
            self._body.is_answered = True
            if await self._run_all(first, entries):
                await self._send({"type": "http.response.body", "body": b""})

    async def _run_all(self, entry: Entry | None, entries: AsyncGenerator[Entry]) -> bool:
        """Begin one job after the other; return, once they are done, whether all jobs of the batch have begun."""
        watching: asyncio.Task[None] | None = None
        try:
            async with asyncio.TaskGroup() as jobs:
                try:
                    if self._sight is None:
                        await self._as_they_come(jobs, entry, entries)
                    else:
                        await self._in_order(jobs, entry, entries, self._sight)
                except ClientLeft:
                    self._leave()
                    return False
                except CutShort as cut:
                    self._tell_cut(str(cut))
                    return False
                watching = asyncio.create_task(self._watch())  # the body is read: only the client's leaving can come
        finally:
            if watching is not None:
                watching.cancel()
        return True

    def _tell_cut(self, cause: str) -> None:
        name = self._request_id.decode("ascii")
        log.info("Cut a batch short after %d jobs: %s (%s)", self._count, cause, name, extra={"request_id": name})

    async def _watch(self) -> None:
        """Let the jobs know when the client leaves."""
        await leaving(self._receive)
        self._leave()

    def _leave(self) -> None:
        """Let the jobs go without the client: those that wait for a lease give up, and running ones go on."""
        self._client_left.set()
        for run in self._runs.values():
            self._dispatcher.client_left(run)
        self._tell_cut("its client has left")

    async def _has_left(self) -> None:
        await self._client_left.wait()

    async def _as_they_come(self, jobs: asyncio.TaskGroup, entry: Entry | None, entries: AsyncGenerator[Entry]) -> None:
        """Begin each job when there is room for it. Raises ClientLeft and CutShort."""
        while entry is not None:
            if (seen := await self._read(entry, self._in_flight.has_place)) is not None:
                self._begin(jobs, seen)
            entry = await anext(entries, None)

    async def _in_order(
        self, jobs: asyncio.TaskGroup, entry: Entry | None, entries: AsyncGenerator[Entry], sight: Sight
    ) -> None:
        """Begin the next job in sight when there is room for another one. Raises ClientLeft and CutShort."""
        reading = asyncio.create_task(self._look_ahead(entry, entries, sight))
        try:
            await sight.settles()
            while True:
                await self._in_flight.has_place()
                self._go_on()
                if (seen := await sight.next()) is None:
                    break
                self._begin(jobs, seen)
        finally:
            reading.cancel()
            await asyncio.wait((reading,))
            sight.clear()

    async def _look_ahead(self, entry: Entry | None, entries: AsyncGenerator[Entry], sight: Sight) -> None:
        """Read the batch into sight, as far as there is room; then wait for its client to leave."""
        try:
            while entry is not None:
                if (seen := await self._read(entry, sight.has_room)) is not None:
                    sight.add(seen)
                entry = await anext(entries, None)
            sight.end()
            await leaving(self._receive)
            raise ClientLeft
        except Exception as reason:  # noqa: BLE001  (raised again where jobs begin)
            if isinstance(reason, ClientLeft):
                self._client_left.set()  # at once, so that jobs that wait for a lease give up
            sight.end(reason)

    async def _read(self, entry: Entry, has_room: Callable[[], Awaitable[None]]) -> Seen | None:
        """Return the entry's job when there is room for it; answer an entry that is none. Raises ClientLeft, CutShort.

        The job's share counts its bytes.
        """
        self._go_on()
        index = self._count
        self._count += 1
        if isinstance(entry, Refusal):
            await self._refuse(index, problem(entry.status, entry.detail, b""))
            return None
        body, hints = entry
        await has_room()
        share = self._in_flight.share()
        try:
            await self._in_flight.grow(share, 0 if self._body.is_list else len(body))
        except BodyBudgetFull:
            status = self._settings.error_status.queue_full
            await self._refuse(index, buffers_full(status, self._buffers.max_bytes, b""))
            await asyncio.sleep(RETRY_AFTER_S)
            return None
        try:
            self._go_on()
            job = Job(
                *(b"POST", JOB_PATH, self._target, self._lines, body, self._id_of(index), self._has_left, share),
                *(self._admission, self._client_s),
                tenant=self._tenant,
                labels=self._labels,
                options=self._options if hints is NO_HINTS else hints.over(self._options, self._scope),
            )
            if job.is_large and job.options.is_sized:
                job = await self._dispatcher.scanned(job)
        except BaseException:
            share.give_back()
            raise
        return Seen(index, job)

    def _begin(self, jobs: asyncio.TaskGroup, seen: Seen) -> None:
        self._in_flight.begin()
        jobs.create_task(self._run(seen.place, seen.job)).add_done_callback(partial(self._end, seen.job.share))

    async def _refuse(self, index: int, answer: Answer) -> None:
        """Answer and count an entry that never becomes a job."""
        self._recorder.refused(answer.status, answer.outcome, JOB_PATH)
        await self._answers.write(index, self._lost(index, answer))

    def _go_on(self) -> None:
        if self._client_left.is_set():
            raise ClientLeft
        if self._stopping.is_set():
            raise CutShort(STOPPED)

    def _end(self, share: BodyShare, _: asyncio.Task[None]) -> None:
        share.give_back()
        self._in_flight.end()

    async def _run(self, index: int, job: Job) -> None:
        try:
            answer = await self._dispatcher.run(job, partial(self._runs.__setitem__, index))
        except ClientLeft:
            return
        finally:
            self._runs.pop(index, None)
        await self._answers.write(index, answer)
        if answer.outcome is not Outcome.SKIPPED and not _has_run(answer):
            # No worker could take it. If the next job began at once, a short outage would fail a whole batch.
            await asyncio.sleep(RETRY_AFTER_S)

    def _lost(self, index: int, answer: Answer) -> Answer:
        """Log, and return, an answer that a job gets from this room and not from the dispatcher."""
        job_log.refused(self._recorder, self._id_of(index), JOB_PATH, self._admission.key_name, answer, self._tenant)
        return answer

    def _id_of(self, index: int) -> bytes:
        return b"%s-%d" % (self._request_id, index)


def _has_run(answer: Answer) -> bool:
    """Whether a worker has seen the job of this answer."""
    return any(name == b"x-router-attempt" for name, _ in answer.headers)
