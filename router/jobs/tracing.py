"""OpenTelemetry: a span for each job, and below it a span for each of its attempts.

The dispatcher calls these hooks only if `traces.endpoint` is set; otherwise OpenTelemetry is not even imported.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Sequence

import msgspec
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from router.http.response import Response, UpstreamFailed
from router.jobs.job import Job
from router.policy.verdict import Kind, Outcome
from router.upstream.pool import Request
from router.version import __version__

log = logging.getLogger(__name__)

# At its end a process waits this long for the last spans: half of what gunicorn allows it after its last job.
FLUSH_S = 5.0
_SERVICE = "sandboxfusion-router"
_FIELDS = (b"traceparent", b"tracestate")
_propagator = TraceContextTextMapPropagator()


class Traces:
    """Makes this process' spans and sends them. Call `start` after the fork, because threads do not survive a fork."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def start(self) -> None:
        """Begin to send. The OTEL_… variables set sampler, resource, headers, time-outs and sizes of batches."""
        resource = Resource.create({SERVICE_VERSION: __version__})
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: _SERVICE}))
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Exporter(self._endpoint)))
        self._tracer: Tracer = self._provider.get_tracer(__name__, __version__)

    async def close(self) -> None:
        """Send the spans that are left, within FLUSH_S."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        await asyncio.to_thread(ending.join, FLUSH_S)
        if ending.is_alive():
            log.warning("The last traces are lost: %s did not take them within %g s", self._endpoint, FLUSH_S)

    def job_begins(self, job: Job) -> "JobTrace":
        """Return the hooks of a job that has just come."""
        return JobTrace(self._tracer, job)


class JobTrace:
    """JobHooks that make one job's span, a child of its client's, and the spans of its attempts.

    If the job is not sampled, its attempts have no spans: workers get the job's own context.
    """

    def __init__(self, tracer: Tracer, job: Job) -> None:
        parent, other_lines = _split(job.lines)
        method, request_id = job.method.decode("ascii"), job.request_id.decode("ascii")
        attributes = {"http.request.method": method, "url.path": job.path, "sfr.request_id": request_id}
        if job.tenant:
            attributes["sfr.tenant"] = job.tenant
        self._tracer = tracer
        self._span = tracer.start_span(f"{method} {job.path}", parent, SpanKind.SERVER, attributes)
        self._context = set_span_in_context(self._span, Context())
        own_lines = _lines(self._context)
        self.lines = own_lines + other_lines
        self._own_bytes = len(own_lines)
        self._attempts = 0
        self._running: dict[str, Span] = {}  # the spans of attempts, by worker
        self._waits_since = time.monotonic()  # for a lease

    def attempt_begins(self, worker_url: str, request: Request) -> Request:
        """Begin an attempt's span, and make it the parent of what the worker does."""
        if not self._span.is_recording():
            return request
        self._attempts += 1
        attributes: dict[str, str | int | bool] = {
            "sfr.worker": worker_url,
            "sfr.attempt": self._attempts,
        }
        if self._running:
            attributes["sfr.hedge"] = True
        else:
            attributes["sfr.wait_ms"] = round((time.monotonic() - self._waits_since) * 1000)
        span = self._tracer.start_span("attempt", self._context, SpanKind.CLIENT, attributes)
        self._running[worker_url] = span
        own_lines = _lines(set_span_in_context(span, self._context))
        return msgspec.structs.replace(request, headers=own_lines + request.headers[self._own_bytes :])

    def attempt_ends(self, worker_url: str, outcome: Response | UpstreamFailed, kind: Kind) -> None:
        """End the attempt's span."""
        self._waits_since = time.monotonic()
        span = self._running.pop(worker_url, None)
        if span is None:
            return
        cause = None
        if isinstance(outcome, UpstreamFailed):
            cause = outcome.cause
        else:
            span.set_attribute("http.response.status_code", outcome.head.status)
        span.set_attribute("sfr.verdict", kind)
        if kind is not Kind.RESULT:
            span.set_status(StatusCode.ERROR, cause)
        span.end()

    def job_ends(self, status: int, outcome: Outcome, pool: str) -> None:
        """End the job's span."""
        if pool:
            self._span.set_attribute("sfr.pool", pool)
        self._span.set_attributes(
            {"http.response.status_code": status, "sfr.verdict": outcome, "sfr.attempts": self._attempts}
        )
        if outcome.is_error:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class _Exporter(SpanExporter):
    """Sends spans. It logs one line when sending begins to fail, and one when it succeeds again."""

    def __init__(self, endpoint: str) -> None:
        self._inner = OTLPSpanExporter(endpoint=endpoint)
        self._endpoint = endpoint
        self._is_away = False
        self._first = _FirstMessage()
        theirs = logging.getLogger("opentelemetry")  # it would log a line for each try
        theirs.propagate = False
        theirs.handlers = [self._first]

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send `spans`."""
        self._first.text = ""
        result = self._inner.export(spans)
        is_away = result is not SpanExportResult.SUCCESS
        if is_away and not self._is_away:
            log.warning("Traces are lost until %s takes them: %s", self._endpoint, self._first.text)
        elif self._is_away and not is_away:
            log.info("Traces are taken by %s again", self._endpoint)
        self._is_away = is_away
        return result

    def shutdown(self) -> None:
        """Stop sending."""
        self._inner.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Return at once: this exporter holds no spans."""
        return self._inner.force_flush(timeout_millis)


class _FirstMessage(logging.Handler):
    """Keeps the first message since `text` was emptied: only the first one of a try names the cause."""

    text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or record.getMessage()


def _lines(context: Context) -> bytes:
    """Return the header lines that name the context's span as the parent."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier, context)
    return b"".join(b"%s: %s\r\n" % (name.encode("ascii"), value.encode("latin-1")) for name, value in carrier.items())


def _split(lines: bytes) -> tuple[Context, bytes]:
    """Return the client's span context, from its header lines, and the other lines."""
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
    # Two traceparents count as none, like a malformed one; several tracestates are one list (W3C Trace Context §3.3).
    parent = _propagator.extract({name: ",".join(values) for name, values in carrier.items()}, Context())
    return parent, b"".join(others)
