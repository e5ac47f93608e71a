"""OpenTelemetry: a span for each job, and below it one for each of its attempts. Its one handler.

Who wants none (`traces.endpoint`) pays nothing: these parts stand in the place of Dispatcher, WorkerPool and Recorder
only where they are wanted. Between them a job is known by what goes to its worker anyway: the first of its header lines
is the `traceparent` of its span, until an attempt puts its own in that place. So no context is kept along a job's way.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from router.config.settings import TlsSettings
from router.config.worker_auth import WorkerAuth
from router.http.answer import Answer
from router.http.response import Response, UpstreamFailed
from router.jobs.dispatcher import Dispatcher
from router.jobs.job import Course, Deliver, Job
from router.jobs.job_log import CLIENT_LEFT_STATUS
from router.policy.verdict import Kind, Outcome
from router.telemetry.recorder import Recorder
from router.upstream import pool
from router.upstream.pool import Request, WorkerPool
from router.version import __version__

log = logging.getLogger(__name__)

# How long the end of a process waits for the last spans: half of the time that gunicorn gives it over its jobs'.
FLUSH_S = 5.0
_SERVICE = "sandboxfusion-router"
_FIELDS = (b"traceparent", b"tracestate")
# W3C Trace Context: version, trace, parent and flags, all of fixed length.
_PARENT_LINE_BYTES = len("traceparent: 00-" + 32 * "0" + "-" + 16 * "0" + "-00\r\n")
_context = TraceContextTextMapPropagator()


class _Trace:
    """One job's spans: its own, and how many attempts it has had. `waits_since` its last one ended, or it came.

    `lines` are the header fields that say so to whoever is asked next.
    """

    def __init__(self, span: Span) -> None:
        self.span = span
        self.context = set_span_in_context(span, Context())
        self.lines = _lines(self.context)
        self.name = self.lines[:_PARENT_LINE_BYTES]
        self.attempts = 0
        self.waits_since = time.monotonic()


class _Attempt:
    """One attempt's span, and its request with that span in its head."""

    def __init__(self, trace: _Trace, span: Span, request: Request) -> None:
        headers = _lines(set_span_in_context(span, trace.context)) + request.headers[len(trace.lines) :]
        self.request = msgspec.structs.replace(request, headers=headers)
        self.trace = trace
        self.span = span
        self.cause: str | None = None


class Traces:
    """What makes this process' spans, and sends them away. `start` begins it: after the fork, as threads must."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._jobs: dict[bytes, _Trace] = {}  # by the first of the lines that go to the worker
        self._unjudged: _Attempt | None = None

    def start(self) -> None:
        """Begin to send, as OTEL_… in the environment say: sampler, resource, headers, time-outs, sizes of batches."""
        resource = Resource.create({SERVICE_VERSION: __version__})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: _SERVICE}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter(self._endpoint)))
        self._tracer: Tracer = self._provider.get_tracer(__name__, __version__)

    async def close(self) -> None:
        """Send what is left, within FLUSH_S."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, FLUSH_S)
        if ending.is_alive():
            log.warning("The last traces are lost: %s did not take them within %g s", self._endpoint, FLUSH_S)

    def recorder(self) -> Recorder:
        """Return a recorder that tells of attempts' verdicts."""
        return _Tally(self)

    def upstream(self, tls: TlsSettings, auth: WorkerAuth) -> WorkerPool:
        """Return the connections to the workers, with a span for each attempt."""
        return _Upstream(tls, auth, self)

    def dispatcher(self, *parts: Any) -> Dispatcher:
        """Return a dispatcher of such `parts`, with a span for each job."""
        return _Dispatcher(self, *parts)

    def job(self, job: Job) -> tuple[Job, _Trace]:
        """Make the span of a job, a child of its client's; the job that goes on is known by it."""
        parent, lines = _taken(job.lines)
        method, request_id = job.method.decode("ascii"), job.request_id.decode("ascii")
        attributes = {"http.request.method": method, "url.path": job.path, "sfr.request_id": request_id}
        trace = _Trace(self._tracer.start_span(f"{method} {job.path}", parent, SpanKind.SERVER, attributes))
        if trace.span.is_recording():  # the attempts of others go out as they are, which is half of the work
            self._jobs[trace.name] = trace
        return msgspec.structs.replace(job, lines=trace.lines + lines), trace

    def job_ended(self, trace: _Trace, status: int, outcome: Outcome) -> None:
        """End the span of a job."""
        self._jobs.pop(trace.name, None)
        trace.span.set_attributes(
            {"http.response.status_code": status, "sfr.verdict": outcome, "sfr.attempts": trace.attempts}
        )
        if outcome.is_error:
            trace.span.set_status(StatusCode.ERROR)
        trace.span.end()

    def attempt(self, worker_url: str, request: Request) -> _Attempt | None:
        """Make the span of an attempt; None where its job is not sampled."""
        trace = self._jobs.get(request.headers[:_PARENT_LINE_BYTES])
        if trace is None:
            return None
        trace.attempts += 1
        attributes: dict[str, str | int] = {
            "sfr.worker": worker_url,
            "sfr.attempt": trace.attempts,
            "sfr.wait_ms": round((time.monotonic() - trace.waits_since) * 1000),
        }
        return _Attempt(trace, self._tracer.start_span("attempt", trace.context, SpanKind.CLIENT, attributes), request)

    def came_back(self, attempt: _Attempt) -> None:
        """Hold the span of an attempt until its verdict, which follows at once."""
        attempt.trace.waits_since = time.monotonic()
        self._unjudged = attempt

    def judged(self, kind: Kind) -> None:
        """End the span of the attempt that has just come back."""
        attempt, self._unjudged = self._unjudged, None
        if attempt is not None:
            attempt.span.set_attribute("sfr.verdict", kind)
            if kind is not Kind.RESULT:
                attempt.span.set_status(StatusCode.ERROR, attempt.cause)
            attempt.span.end()


class _Dispatcher(Dispatcher):
    """Brings jobs to workers, each within its span."""

    def __init__(self, traces: Traces, *parts: Any) -> None:
        super().__init__(*parts)
        self._traces = traces

    def begin(self, job: Job, deliver: Deliver) -> Course:
        """Bring `job` to its answer."""
        traced, trace = self._traces.job(job)

        def end(answer: Answer | None) -> None:
            if answer is None:
                self._traces.job_ended(trace, CLIENT_LEFT_STATUS, Outcome.CLIENT_LEFT)
            else:
                self._traces.job_ended(trace, answer.status, answer.outcome)
            deliver(answer)

        return super().begin(traced, end)


class _Upstream(WorkerPool):
    """The connections to the workers; what is sent over them names its attempt's span as its parent."""

    def __init__(self, tls: TlsSettings, auth: WorkerAuth, traces: Traces) -> None:
        super().__init__(tls, auth)
        self._traces = traces

    def send(self, worker_url: str, request: Request, timeout_s: float, deliver: pool.OutcomeCallback) -> None:
        """Send `request` to one worker, and deliver what comes back."""
        attempt = self._traces.attempt(worker_url, request)
        if attempt is None:
            super().send(worker_url, request, timeout_s, deliver)
            return

        def come_back(outcome: Response | UpstreamFailed) -> None:
            if isinstance(outcome, UpstreamFailed):
                attempt.cause = outcome.cause
            else:
                attempt.span.set_attribute("http.response.status_code", outcome.head.status)
            self._traces.came_back(attempt)
            deliver(outcome)

        super().send(worker_url, attempt.request, timeout_s, come_back)


class _Tally(Recorder):
    """Counts, and hands on what attempts were worth."""

    def __init__(self, traces: Traces) -> None:
        super().__init__()
        self._traces = traces

    def attempt_ended(self, worker_url: str, kind: Kind, seconds: float) -> None:
        """Count an attempt that took its worker so long."""
        super().attempt_ended(worker_url, kind, seconds)
        self._traces.judged(kind)


class _Exporter(SpanExporter):
    """Sends spans. It says once when that begins to fail, and once when it goes well again, however often it tries."""

    def __init__(self, endpoint: str) -> None:
        self._inner = OTLPSpanExporter(endpoint=endpoint)
        self._endpoint = endpoint
        self._is_away = False
        self._said = _FirstWord()
        theirs = logging.getLogger("opentelemetry")  # a line for each try
        theirs.propagate = False
        theirs.handlers = [self._said]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send these."""
        self._said.word = ""
        result = self._inner.export(spans)
        is_away = result is not SpanExportResult.SUCCESS
        if is_away and not self._is_away:
            log.warning("Traces are lost until %s takes them: %s", self._endpoint, self._said.word)
        elif self._is_away and not is_away:
            log.info("Traces are taken by %s again", self._endpoint)
        self._is_away = is_away
        return result

    def shutdown(self) -> None:
        """Send no more."""
        self._inner.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Nothing is held here."""
        return self._inner.force_flush(timeout_millis)


class _FirstWord(logging.Handler):
    """Keeps the first line since `word` was emptied: the first tells the cause, the later ones what became of it."""

    word = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.word = self.word or record.getMessage()


def _lines(context: Context) -> bytes:
    """Return the header lines that name a context's span as the parent."""
    carrier: dict[str, str] = {}
    _context.inject(carrier, context)
    return b"".join(b"%s: %s\r\n" % (name.encode("ascii"), value.encode("latin-1")) for name, value in carrier.items())


def _taken(lines: bytes) -> tuple[Context, bytes]:
    """Return what a client's header lines say of its span, and the other lines."""
    if b"trace" not in lines:
        return Context(), lines
    carrier: dict[str, list[str]] = {}
    others = []
    for line in lines.splitlines(keepends=True):
        name, _, value = line.partition(b": ")
        if name in _FIELDS:
            carrier.setdefault(name.decode("ascii"), []).append(value.strip().decode("latin-1"))
        else:
            others.append(line)
    # Two traceparents are none, as any that is malformed; many tracestates are one (W3C Trace Context §3.3).
    parent = _context.extract({name: ",".join(values) for name, values in carrier.items()}, Context())
    return parent, b"".join(others)
