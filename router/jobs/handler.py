"""The handler of jobs: plain ASGI and two direct calls, before FastAPI sees a request.

FastAPI's middleware and routing cost as much as all the rest of a job, so only requests that are no job go on to it. A
job has two ways in: ASGI (`__call__`), and a whole request that our own protocol has read (`read`, then `begin`). Each
of them needs the JobGate's admission before it can make a job.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from functools import partial
from http import HTTPStatus

import msgspec

from router.aio import start
from router.auth.access import Admission, JobGate
from router.config.settings import Settings
from router.http.answer import Answer, problem
from router.http.asgi import (
    CLIENT_LEFT,
    Application,
    Receive,
    Scope,
    Send,
    leaving,
    new_request_id,
    request_id_of,
    send_answer,
)
from router.http.head_cache import HeadCache
from router.http.headers import GROUP, STOP_ON, Head, Headers, of_tenant, read_head
from router.http.response import Body
from router.jobs import job_log
from router.jobs.answers import broken, buffers_full
from router.jobs.body_budget import BodyBudget, BodyBudgetFull, BodyShare
from router.jobs.dispatcher import Dispatcher
from router.jobs.endpoints import Asked, BadHead, BadOption, JobHead, client_s_of, labels_of, options_of, tenant_of
from router.jobs.job import AnswerCallback, Job, JobRun
from router.policy import tenants
from router.policy.deadline import SMALL_BYTES
from router.policy.endpoints import endpoints_of
from router.policy.request_head import Refusal
from router.scheduling.pending import ClientLeft
from router.telemetry.recorder import Recorder

log = logging.getLogger(__name__)

# The entry of a request's ASGI state that holds its Admission, for what lies below a job's endpoint.
ADMISSION = "admission"
# What else than jobs a client asks of an address of its own. Pages and changes of the fleet are not below `/t/NAME`, so
# that a proxy which keeps back `/admin` keeps back all of it.
_LOOKS = frozenset({"/", "/health", "/v1/ping"})


class BodyTooLarge(Exception):
    """The request's body is longer than max_body_mb."""


class JobHandler:
    """An ASGI application that takes jobs and passes all other requests on to `rest`.

    `heads` are the request heads that are known; connections look them up to skip parsing.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        rest: Application,
        gate: JobGate,
        buffers: BodyBudget,
        settings: Settings,
        recorder: Recorder,
    ) -> None:
        self.heads = HeadCache[JobHead]()
        self.recorder = recorder
        self.methods = {path: endpoint.method for path, endpoint in endpoints_of(settings.endpoints).items()}
        # Paths below a job's endpoint take jobs, too: /run_code/batch.
        self._below = tuple(f"{path}/" for path in self.methods)
        self._beginning: set[asyncio.Task[None]] = set()
        self._dispatcher = dispatcher
        self._rest = rest
        self._gate = gate
        self._buffers = buffers
        self._max_body_bytes = int(settings.max_body_mb * 2**20)
        self._full_status = settings.error_status.queue_full

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._rest(scope, receive, send)
            return
        refusal = None
        if (named := tenants.split(scope["path"])) is not None and self._is_for_clients(named[1]):
            name, path = named
            scope = {**scope, "path": path, "raw_path": path.encode(), "headers": of_tenant(name, scope["headers"])}
            refusal = self._flaw(name)
        path, headers = scope["path"], scope["headers"]
        if refusal is None and path in self.methods:
            client = _Client(self._dispatcher.client_left)
            scope.setdefault("state", {})[CLIENT_LEFT] = client
            asked = Asked(scope["method"], path, scope["query_string"], headers)
            answer = await self._answer(asked, receive, client)
        elif refusal := refusal or self._refusal(scope):
            answer = _refused(refusal, headers)
            self.recorder.refused(answer.status, answer.outcome)
        else:
            await self._rest(scope, receive, send)
            return
        if answer is not None:
            await send_job_answer(path, answer, receive, send)

    def _is_for_clients(self, path: str) -> bool:
        """Whether a tenant has this path below a prefix of its own: those of jobs, and those that only look."""
        return path in self.methods or path in _LOOKS or path.startswith(self._below)

    def _flaw(self, name: str) -> Refusal | None:
        """Return why a request whose path begins with this tenant is refused; None where the key names the tenant."""
        found = None if self._gate.needs_keys else tenants.flaw(name)
        return None if found is None else Refusal(HTTPStatus.BAD_REQUEST, found)

    def _refusal(self, scope: Scope) -> Refusal | None:
        """Return why a request that is not one job is refused; else leave its admission in the scope, if it has one."""
        if not scope["path"].startswith(self._below):
            return self._gate.refusal(scope["headers"])
        admission = self._gate.admit(scope["headers"])
        if isinstance(admission, Refusal):
            return admission
        scope["headers"] = admission.headers
        scope.setdefault("state", {})[ADMISSION] = admission
        return None

    async def _answer(self, asked: Asked, receive: Receive, client: "_Client") -> Answer | None:
        """Return the answer to a request for one of `methods`; None if its client has left.

        A request that is not admitted is refused before its body is read.
        """
        admission = self._gate.admit(asked.headers)
        if isinstance(admission, Refusal):
            return self._count_refused(asked.path, _refused(admission, asked.headers))
        head = read_head(admission.headers)
        request_id = request_id_of(head)
        method = self.methods[asked.path]
        if asked.method != method:
            answer = problem(HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed", request_id)
            return self._count_refused(asked.path, answer.with_field(b"allow", method.encode("ascii")))
        try:
            job_head = _job_head(asked, admission, head)
        except BadHead as reason:
            return self._count_refused(asked.path, problem(HTTPStatus.BAD_REQUEST, str(reason), request_id))
        try:
            with self._buffers.share() as share:
                body = await self._read_body(head, receive, share)
                return await self._dispatcher.run(
                    Job(
                        *(job_head.method, job_head.path, job_head.target, job_head.lines, body, request_id),
                        *(partial(leaving, receive), share, admission, job_head.client_s),
                        tenant=job_head.tenant,
                        labels=job_head.labels,
                        options=job_head.options,
                    ),
                    client.has_begun,
                )
        except ClientLeft:
            return None
        except (BodyTooLarge, BodyBudgetFull) as reason:
            return self._unfit(job_head, reason, request_id)

    def asked(self, target: bytes, headers: Headers) -> Asked | None:
        """Return what a POST to this target asks for; None if it is no job, or percent-encoded: ASGI serves those."""
        undecoded, _, query = target.partition(b"?")
        path = undecoded.decode("latin-1")
        if (named := tenants.split(path)) is not None:
            name, path = named
            if tenants.flaw(name):
                return None
            headers = of_tenant(name, headers)
        return Asked("POST", path, query, headers) if self.methods.get(path) == "POST" else None

    def read(self, asked: Asked, *, keep_alive: bool) -> JobHead | None:
        """Return the head of a POST for `begin`; None if the request is refused: ASGI then says why."""
        admission = self._gate.admit(asked.headers)
        if isinstance(admission, Refusal):
            return None
        try:
            return _job_head(asked, admission, read_head(admission.headers), keep_alive=keep_alive)
        except BadHead:
            return None

    def client_left(self, run: JobRun) -> None:
        """Take note that the client of a running job has hung up."""
        self._dispatcher.client_left(run)

    def begin(
        self,
        head: JobHead,
        body: bytes,
        has_left: Callable[[], Coroutine[None, None, None]],
        deliver: AnswerCallback,
        begun: Callable[[JobRun], None],
    ) -> JobRun | None:
        """Take a whole job; `deliver` is called once, with its answer, or None if its client has left.

        Return its run; a large job has none yet, and `begun` hears of it.
        """
        request_id = head.request_id or new_request_id()
        share = self._buffers.share()

        def end(answer: Answer | None) -> None:
            share.give_back()
            deliver(answer)

        try:
            admission = head.admission
            if admission.key is not None:
                renewed = self._gate.renew(admission)
                if isinstance(renewed, Refusal):
                    end(self._count_refused(head.path, _refusal_answer(renewed, request_id)))
                    return None
                if renewed is not admission:  # the key has got another name
                    tenant = tenants.of_key(renewed.key_name)
                    head = msgspec.structs.replace(head, admission=renewed, tenant=tenant)
            try:
                self._hold(body, share)
            except (BodyTooLarge, BodyBudgetFull) as reason:
                end(self._unfit(head, reason, request_id))
                return None
            job = Job(
                *(head.method, head.path, head.target, head.lines, body, request_id, has_left, share),
                *(head.admission, head.client_s),
                tenant=head.tenant,
                labels=head.labels,
                options=head.options,
            )
            if job.is_large:
                start(self._beginning, self._begin_large(job, end, begun))
            else:
                return self._dispatcher.begin(job, end)
        except Exception:
            log.exception("A job met with a fault of the router's own")
            end(broken(request_id))
        return None

    async def _begin_large(self, job: Job, deliver: AnswerCallback, begun: Callable[[JobRun], None]) -> None:
        try:
            begun(self._dispatcher.begin(await self._dispatcher.scanned(job), deliver))
        except Exception:
            log.exception("A job met with a fault of the router's own")
            deliver(broken(job.request_id))

    def _hold(self, body: bytes, share: BodyShare) -> None:
        """Count the bytes of a whole body. Raises BodyTooLarge, BodyBudgetFull."""
        if len(body) > self._max_body_bytes:
            raise BodyTooLarge
        share.grow(len(body))

    async def _read_body(self, head: Head, receive: Receive, share: BodyShare) -> Body:
        limit = self._max_body_bytes
        if head.content_length > limit:  # before uvicorn answers `Expect: 100-continue`
            raise BodyTooLarge
        body = bytearray()  # joining parts at the end would copy a large body in one step
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            part = message.get("body", b"")
            if len(body) + len(part) > limit:
                raise BodyTooLarge
            share.grow(len(part))
            body += part
            if not message.get("more_body", False):
                return body if len(body) > SMALL_BYTES else bytes(body)

    def _unfit(self, head: JobHead, reason: BodyTooLarge | BodyBudgetFull, request_id: bytes) -> Answer:
        if isinstance(reason, BodyTooLarge):
            limit = f"Request body is larger than {self._max_body_bytes / 2**20:g} MB"
            answer = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, limit, request_id)
        else:
            answer = buffers_full(self._full_status, self._buffers.max_bytes, request_id)
            job_log.refused(self.recorder, request_id, head.path, head.admission.key_name, answer, head.tenant)
        return self._count_refused(head.path, answer)

    def _count_refused(self, path: str, answer: Answer) -> Answer:
        """Count the answer to a request that never became a job; the dispatcher counts jobs."""
        self.recorder.refused(answer.status, answer.outcome, path)
        return answer


class _Client:
    """The client of a job that ASGI serves. The connection sets it, like an event, when the client has hung up."""

    def __init__(self, left: Callable[[JobRun], None]) -> None:
        self._left = left
        self._run: JobRun | None = None

    def has_begun(self, run: JobRun) -> None:
        """Take note of the job's run."""
        self._run = run

    def set(self) -> None:
        """Tell that the client has hung up."""
        if self._run is not None:
            self._left(self._run)


def _refused(refusal: Refusal, headers: Headers) -> Answer:
    return _refusal_answer(refusal, request_id_of(read_head(headers)))


def _refusal_answer(refusal: Refusal, request_id: bytes) -> Answer:
    answer = problem(refusal.status, refusal.detail, request_id)
    if refusal.status == HTTPStatus.UNAUTHORIZED:
        # Not Basic: a browser would ask its user for the key, keep it, and add it to requests of other sites' pages.
        return answer.with_field(b"www-authenticate", b"Bearer")
    return answer


def _job_head(asked: Asked, admission: Admission, head: Head, *, keep_alive: bool = False) -> JobHead:
    """Return what this request says of its job. Raises BadHead."""
    path, options = asked.path.encode("ascii"), options_of(head)
    if options.stops_on_failure and not options.group:
        raise BadOption(f"{STOP_ON.decode()}: expected {GROUP.decode()} with it")
    return JobHead(
        path=asked.path,
        target=path + b"?" + asked.query if asked.query else path,
        lines=head.lines,
        admission=admission,
        keep_alive=keep_alive,
        request_id=None if head.request_id is None else request_id_of(head),
        client_s=client_s_of(head),
        method=asked.method.encode("ascii"),
        tenant=tenant_of(admission, head),
        labels=labels_of(head),
        options=options,
    )


async def send_job_answer(path: str, answer: Answer, receive: Receive, send: Send) -> None:
    """Send an answer by ASGI's messages; log a result of which the client did not receive the end."""
    if not await send_answer(answer, receive, send):
        job_log.unheard(path, answer, "and its client left before the end")


def answering(answer: Answer) -> Application:
    """Return an application that gives this answer to every request."""

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        await send_job_answer(scope["path"], answer, receive, send)

    return application
