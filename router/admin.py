"""`/admin`: the fleet as an operator or an agent sees and steers it.

Looking is free, as `GET /` is. Changes are intent: they are written to Redis, and the sidecar and the routers follow.
"""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, HTTPException, Query, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from router.access import AdminGate, peer_in
from router.api import Problem, redis_away, worker_status
from router.fleet.intents import Intents, Override, Registration, Standing
from router.fleet.model import MAX_WEIGHT, Ejection, Health, Source, Worker, WorkerRecord
from router.fleet.store import StoreUnavailable
from router.policy.allowed import Allowed
from router.reports import AdminWorker, Overrides
from router.settings import MAX_SECONDS, AdminSettings, Count, NamedWorker, WorkerUrl
from router.view import FleetView

log = logging.getLogger(__name__)

# A worker's record, the condition that it shows, and its ejection.
_Shown = tuple[WorkerRecord, Health, Ejection | None]

Named = Annotated[WorkerUrl, Query(description="The worker's URL", examples=["http://server1:8080"])]


class NewWorker(NamedWorker):
    """A worker to register, or to renew. Without `ttl_seconds` it is one until it is removed."""

    ttl_seconds: Annotated[float, Field(ge=0.001, le=MAX_SECONDS)] | None = None  # Redis counts milliseconds


class Changes(BaseModel):
    """A new weight or cap, or both; null: as the worker came with. What is absent stays as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)] | None = None
    max_concurrency: Count | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> "Changes":
        if not self.model_fields_set:
            raise PydanticCustomError("changes", "expected weight or max_concurrency, or both")
        return self


class Admin:
    """What the endpoints do. Methods raise HTTPException for what cannot be done, and StoreUnavailable."""

    def __init__(self, intents: Intents, view: FleetView, allowed: Allowed) -> None:
        self._intents = intents
        self._view = view
        self._allowed = allowed

    async def list(self, url: str | None) -> list[AdminWorker]:
        """Return all workers, or the one at `url` where there is such a one."""
        shown = await self._shown(url)
        urls = sorted(shown.keys() | await self._intents.registered()) if url is None else [url]
        standing = await self._intents.standing(urls)
        return [worker for each in urls if (worker := _worker(each, shown.get(each), standing[each]))]

    async def one(self, url: str) -> AdminWorker:
        """Return the worker at `url`."""
        found = await self.list(url)
        if not found:
            raise HTTPException(HTTPStatus.NOT_FOUND, f"{url} is not in the fleet")
        return found[0]

    async def add(self, new: NewWorker) -> bool:
        """Register a worker; return whether it is new, or another one than before."""
        host = urlsplit(new.url).hostname or ""
        if not self._allowed.permits(host):
            detail = f"{new.url}: admin.allowed_workers in config.yaml allows no {host}"
            raise HTTPException(HTTPStatus.FORBIDDEN, detail)
        registration = Registration(new.url, new.weight, new.max_concurrency, new.ttl_seconds)
        return await self._intents.register(registration)

    async def remove(self, url: str) -> None:
        """End the registration of a worker."""
        worker = await self.one(url)
        if not worker.registered and worker.source != Source.REGISTERED:
            detail = f"{url} stands in {_PLACES.get(worker.source, worker.source)}: take it out there, or drain it"
            raise HTTPException(HTTPStatus.CONFLICT, detail)
        await self._intents.remove(url)

    async def drain(self, url: str) -> None:
        """Keep new jobs from a worker."""
        await self.one(url)
        await self._intents.drain(url)

    async def resume(self, url: str) -> None:
        """Let a worker have jobs again."""
        await self.one(url)
        await self._intents.resume(url)

    async def change(self, url: str, changes: Changes) -> None:
        """Set a worker's weight or cap."""
        await self.one(url)
        await self._intents.override(url, {name: getattr(changes, name) for name in changes.model_fields_set})

    async def _shown(self, only: str | None) -> dict[str, _Shown]:
        snapshot = await self._view.latest(only)
        ejected = snapshot.state.ejected
        return {
            record.worker.url: (record, condition, ejected.get(record.worker.url))
            for record, condition in snapshot.conditions
        }


_PLACES: dict[str, str] = {Source.CONFIG: "config.yaml", Source.FILE: "workers_file", Source.DNS: "discover.dns"}


def create_admin(intents: Intents, view: FleetView, settings: AdminSettings, gate: AdminGate) -> APIRouter:
    """Return the endpoints below /admin."""
    admin = Admin(intents, view, Allowed(settings.allowed_workers))
    router = APIRouter(
        prefix="/admin/workers",
        tags=["admin"],
        route_class=_guarded_by(gate),
        responses={503: {"model": Problem, "description": "Redis is unavailable"}},
    )
    # Its one work is to be described: the gate has looked by then, before any body was read.
    described = [Security(HTTPBearer(auto_error=False, description="The admin token"))]
    refused: dict[int | str, dict[str, Any]] = {
        401: {"model": Problem, "description": "The admin token is missing or wrong"},
        403: {"model": Problem, "description": "No admin token is set, or the worker is not among the allowed ones"},
    }
    unknown: dict[int | str, dict[str, Any]] = {
        **refused,
        404: {"model": Problem, "description": "No such worker"},
    }
    named_elsewhere: dict[int | str, dict[str, Any]] = {
        409: {"model": Problem, "description": "The worker stands in config.yaml, a file or the DNS"}
    }

    @router.get("", summary="The fleet, with what is wanted of it", name="list_workers")
    async def list_workers(url: Named | None = None) -> list[AdminWorker]:
        """Return all workers; with `url` that one, or none."""
        return await admin.list(url)

    @router.post("", status_code=201, summary="Add a worker, or renew it", dependencies=described, responses=refused)
    async def add(new: NewWorker, request: Request, response: Response) -> AdminWorker:
        """Register a worker. 201 where it is new or has changed, 200 where it is renewed.

        Its host must be among `admin.allowed_workers`. The sidecar takes it in at once, and checks it.
        """
        if await admin.add(new):
            _tell(request, f"Worker {new.url} added")
        else:
            response.status_code = HTTPStatus.OK
        return await admin.one(new.url)

    @router.delete(
        "",
        status_code=204,
        summary="Remove a worker",
        dependencies=described,
        responses={**unknown, **named_elsewhere},
    )
    async def remove(url: Named, request: Request) -> None:
        """End a registration. The worker gets no new job; what it runs is answered."""
        await admin.remove(url)
        _tell(request, f"Worker {url} removed")

    @router.patch("", summary="Set a worker's weight or cap", dependencies=described, responses=unknown)
    async def change(url: Named, changes: Changes, request: Request) -> AdminWorker:
        """Set weight, max_concurrency or both, whatever named the worker, until it leaves the fleet."""
        await admin.change(url, changes)
        _tell(request, f"Worker {url} set to {changes.model_dump(exclude_unset=True)}")
        return await admin.one(url)

    @router.post("/drain", summary="Keep new jobs from a worker", dependencies=described, responses=unknown)
    async def drain(url: Named, request: Request) -> AdminWorker:
        """Give the worker no new job from now on. `running` falls to 0 as its jobs end."""
        await admin.drain(url)
        _tell(request, f"Worker {url} drained")
        return await admin.one(url)

    @router.post("/resume", summary="Let a worker have jobs again", dependencies=described, responses=unknown)
    async def resume(url: Named, request: Request) -> AdminWorker:
        """Undo a drain."""
        await admin.resume(url)
        _tell(request, f"Worker {url} resumed")
        return await admin.one(url)

    return router


def _guarded_by(gate: AdminGate) -> type[APIRoute]:
    """Return a class of routes whose changes pass the gate before anything of their bodies is read."""

    class Guarded(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Awaitable[Response]]:  # type: ignore[override]
            handler = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                refusal = (
                    gate.refusal(request.scope["headers"], peer_in(request.scope)) if request.method != "GET" else None
                )
                if refusal:
                    status, detail = refusal
                    headers = {"WWW-Authenticate": "Bearer"} if status == HTTPStatus.UNAUTHORIZED else None
                    raise HTTPException(status, detail, headers)
                try:
                    return await handler(request)
                except StoreUnavailable as error:
                    raise redis_away(error) from error

            return guarded

    return Guarded


def _tell(request: Request, what: str) -> None:
    log.info("%s, by %s", what, peer_in(request.scope) or "an unknown peer")


def _worker(url: str, shown: _Shown | None, standing: Standing) -> AdminWorker | None:
    registration = standing.registration
    if shown is None:
        if registration is None:
            return None
        # It has just come; the sidecar has not taken it in yet.
        worker = Worker(url, registration.weight, registration.max_concurrency, Source.REGISTERED)
        shown = WorkerRecord(worker), Health.UNKNOWN, None
    record, condition, ejection = shown
    # The drain is as it stands in Redis now, the rest as this process has last seen it.
    if record.health is not Health.UNHEALTHY:
        condition = Health.DRAINING if standing.is_draining else Health.EJECTED if ejection else record.health
    return AdminWorker(
        **worker_status(record, condition, ejection).model_dump(),
        running=standing.running,
        draining=standing.is_draining,
        registered=registration is not None,
        expires_in_seconds=registration.ttl_s if registration else None,
        overrides=_overrides(standing.override),
    )


def _overrides(override: Override) -> Overrides:
    return Overrides(weight=override.weight, max_concurrency=override.max_concurrency)
