"""A collector of traces on a real socket: it accepts OTLP over HTTP and keeps the spans."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as ProtoSpan

from router.processes import free_port


@dataclass(frozen=True)
class Span:
    """One span as it arrived, with ids in hex; `parent` is empty for a root, `service` is the resource's name."""

    name: str
    trace: str
    id: str
    parent: str
    kind: str
    state: str
    attributes: dict[str, str | int]
    is_error: bool
    said: str
    seconds: float
    service: str


@dataclass
class Collector:
    """Accepts spans while it listens; `status` is the status of its answers."""

    status: int = 200
    spans: list[Span] = field(default_factory=list)
    requests: int = 0
    port: int = field(default_factory=free_port)

    @property
    def url(self) -> str:
        """The URL to which spans are sent."""
        return f"http://127.0.0.1:{self.port}/v1/traces"

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    async def listen(self) -> None:
        """Accept connections from now on."""
        app = web.Application()
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port).start()

    def jobs(self) -> list[Span]:
        """Return the spans of jobs, without those of attempts."""
        return [span for span in self.spans if span.name != "attempt"]

    def attempts(self, job: Span) -> list[Span]:
        """Return the spans of a job's attempts in their order."""
        below = [span for span in self.spans if (span.trace, span.parent) == (job.trace, job.id)]
        return sorted(below, key=lambda span: span.attributes["sfr.attempt"])

    async def _take(self, request: web.Request) -> web.Response:
        self.requests += 1
        if self.status == 200:
            told = ExportTraceServiceRequest.FromString(await request.read())
            for resource in told.resource_spans:
                service = {each.key: each.value.string_value for each in resource.resource.attributes}["service.name"]
                self.spans += [_span(span, service) for scope in resource.scope_spans for span in scope.spans]
        return web.Response(status=self.status)


def _span(span: ProtoSpan, service: str) -> Span:
    values = {each.key: each.value for each in span.attributes}
    return Span(
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        kind=ProtoSpan.SpanKind.Name(span.kind),
        state=span.trace_state,
        attributes={
            key: value.string_value if value.HasField("string_value") else value.int_value
            for key, value in values.items()
        },
        is_error=span.status.code == span.status.STATUS_CODE_ERROR,
        said=span.status.message,
        seconds=(span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        service=service,
    )
