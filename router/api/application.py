"""The router's own endpoints: status, health, metrics, and the OpenAPI description of all endpoints.

jobs.handler.JobHandler serves the jobs; none comes here. Their endpoints are only described here, so that /docs shows
the whole API.
"""

from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, Field
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse
from starlette.types import Lifespan

from router.api.sandboxfusion import RunCodeRequest, RunCodeResponse, RunJupyterRequest
from router.api.schemas import FleetCounts, FleetStatus, HealthStatus
from router.api.status import health_status, redis_state, sidecar_status, worker_status
from router.config.flaws import told
from router.fleet.counters import Counters
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.fleet.snapshot import FleetView
from router.http.answer import RETRY_AFTER_S
from router.jobs.batch import handler
from router.jobs.endpoints import JOB_ENDPOINTS
from router.version import __version__

SERVICE = "SandboxFusion Router"
DESCRIPTION = "Spreads code-execution jobs over many SandboxFusion workers. Jobs are SandboxFusion's own API."


# The header with which each 503 says when to ask again.
_COME_AGAIN = {"Retry-After": str(RETRY_AFTER_S)}


_SWAGGER = Path(__file__).parent / "swagger"
# Swagger UI sets styles from its script, and its icons are data: URLs.
_SWAGGER_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cache-control": "no-cache",
    "x-content-type-options": "nosniff",
}


class Problem(BaseModel):
    """An error of the router's own."""

    detail: str


# Of an endpoint that asks Redis, for its description.
LACKS_REDIS: dict[int | str, dict[str, Any]] = {503: {"model": Problem, "description": "Redis is unavailable"}}


class BatchLine(BaseModel):
    """One job's answer in the answer to a batch."""

    index: int = Field(description="the job's place in the batch, from 0")
    status: int = Field(description="the status with which /run_code would have answered")
    retry_after: int | None = Field(
        None, description="seconds after which another try may succeed; absent if none would"
    )
    body: Any = Field(description="the body that /run_code would have answered; its `detail` if the job failed")


_NDJSON = handler.MEDIA_TYPE.decode("ascii")
_BATCH: dict[str, Any] = {
    "response_model": None,
    "responses": {
        200: {"description": "A line for each job", "content": {_NDJSON: {"schema": BatchLine.model_json_schema()}}},
        415: {"model": Problem, "description": "The batch is compressed"},
    },
    "openapi_extra": {"requestBody": {"content": {_NDJSON: {"schema": RunCodeRequest.model_json_schema()}}}},
}


def create_api(
    view: FleetView,
    redis: RedisClient,
    metrics_page: Callable[[str], Awaitable[tuple[bytes, str]]],
    lifespan: Lifespan[FastAPI],
) -> FastAPI:
    """Return the FastAPI application behind the job handler."""
    # FastAPI's own pages at docs_url and redoc_url load scripts from other hosts, and ask for /openapi.json even if a
    # proxy serves this API below another path.
    api = FastAPI(
        title=SERVICE,
        version=__version__,
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        servers=[{"url": "./"}],  # beside openapi.json
    )
    answer_errors(api)
    _serve_docs(api)
    counters = Counters(redis)

    @api.get("/", summary="The fleet, worker by worker", tags=["router"])
    async def status(response: Response) -> FleetStatus:
        response.headers["vary"] = "accept"  # browsers are sent to the dashboard
        snapshot = await view.latest()
        return FleetStatus(
            service=SERVICE,
            version=__version__,
            redis=redis_state(redis),
            sidecar=sidecar_status(snapshot),
            workers=[
                worker_status(record, condition, snapshot.state.ejected.get(record.worker.url))
                for record, condition in snapshot.conditions
            ],
        )

    @api.get("/health", summary="Can jobs be routed?", tags=["router"], responses={503: {"model": HealthStatus}})
    async def health(response: Response) -> HealthStatus:
        snapshot = view.snapshot
        if not snapshot.routable:
            response.status_code = HTTPStatus.SERVICE_UNAVAILABLE
            response.headers.update(_COME_AGAIN)
        return health_status(snapshot, redis)

    @api.get("/v1/ping", summary="Is the router alive?", tags=["router"])
    async def ping() -> str:
        """Answer as a worker does, so that a router can stand behind a router."""
        return "pong"

    @api.get("/metrics", summary="The metrics, for Prometheus", tags=["router"], response_class=PlainTextResponse)
    async def metrics(accept: Annotated[str, Header()] = "") -> Response:
        page, content_type = await metrics_page(accept)
        return Response(page, headers={"content-type": content_type})

    @api.get("/admin/stats", summary="What all routers have counted", tags=["admin"], responses=LACKS_REDIS)
    async def stats() -> FleetCounts:
        """Return the counts of the fleet and of each worker, and the jobs that run and wait now."""
        return FleetCounts.of(await counters.usage([record.worker.url for record in view.snapshot.state.records]))

    described = _job_descriptions()

    def openapi() -> dict[str, Any]:
        if api.openapi_schema is None:
            api.openapi_schema = get_openapi(
                title=api.title,
                version=api.version,
                description=api.description,
                servers=api.servers,
                routes=[*api.routes, *described.routes],
            )
        return api.openapi_schema

    api.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend its schema
    return api


def answer_errors(api: FastAPI) -> None:
    """Have requests answered that are not valid, or that need Redis while it is away."""
    api.add_exception_handler(RequestValidationError, _refuse)
    api.add_exception_handler(RedisUnavailable, _lack_redis)


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    """Say what is wrong with a request, and where. Its values are not repeated, because JSON cannot hold each (NaN)."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    problems = [{"type": each["type"], "loc": _printable(each["loc"]), "msg": told(each)} for each in found]
    return JSONResponse({"detail": problems}, HTTPStatus.UNPROCESSABLE_ENTITY)


def _printable(place: Iterable[str | int]) -> list[str | int]:
    return [part if isinstance(part, int) else repr(part)[1:-1] for part in place]


async def _lack_redis(_: Request, error: Exception) -> JSONResponse:
    detail = {"detail": f"Redis is unavailable: {error}"}
    return JSONResponse(detail, HTTPStatus.SERVICE_UNAVAILABLE, _COME_AGAIN)


def _serve_docs(api: FastAPI) -> None:
    """Serve Swagger UI at /docs, from the files of this package."""

    def serve(path: str, name: str) -> None:
        @api.api_route(path, methods=["GET", "HEAD"], include_in_schema=False)
        async def file() -> FileResponse:
            return FileResponse(_SWAGGER / name, headers=_SWAGGER_HEADERS)

    serve("/docs", "index.html")
    for name in ("start.js", "swagger-ui-bundle.js", "swagger-ui.css"):
        serve(f"/docs/{name}", name)


def _job_descriptions() -> APIRouter:
    """Return routes that serve nothing and only describe JOB_ENDPOINTS."""
    described = APIRouter(
        tags=["jobs"],
        responses={
            400: {"model": Problem, "description": "The request is malformed"},
            401: {"model": Problem, "description": "The API key is missing or unknown, if api_keys is set"},
            408: {"model": Problem, "description": "The request did not arrive within client_body_timeout"},
            413: {"model": Problem, "description": "The body is over max_body_mb"},
            503: {"model": Problem, "description": "No healthy worker, or all failed, or a queue or buffer is full"},
            504: {"model": Problem, "description": "No worker had a free slot within queue.timeout"},
        },
    )

    async def run_code(job: RunCodeRequest) -> RunCodeResponse:
        """Run code on a worker. `router_metadata` (worker_url, attempt, queue_ms) is added as the answer's last key."""
        raise NotImplementedError

    async def run_jupyter(job: RunJupyterRequest) -> dict[str, Any]:
        """Run cells on a worker's Jupyter kernel. `router_metadata` is added as the answer's last key."""
        raise NotImplementedError

    async def forwarded() -> object:
        """Forward the request to a worker, unchanged. `router_metadata` is added to a JSON object as its last key."""
        raise NotImplementedError

    async def run_batch(jobs: list[RunCodeRequest]) -> None:
        """Run many jobs, sent one a line (NDJSON) or as a JSON list. Each job's answer is a line of its own.

        The lines come in the order in which the jobs end.
        """
        raise NotImplementedError

    described.add_api_route(handler.PATH, run_batch, methods=["POST"], operation_id="run_batch", **_BATCH)
    known: dict[str, Callable[..., Any]] = {"/run_code": run_code, "/run_jupyter": run_jupyter}
    for path, method in JOB_ENDPOINTS.items():
        described.add_api_route(
            path, known.get(path, forwarded), methods=[method], operation_id=path.strip("/"), name=path.strip("/")
        )
    return described
