"""`/admin/workers` and `/admin/tenants`: operators and agents see and steer the fleet, and who gets how much of it.

Everyone may look, as with `GET /`; changes must pass the AdminGate. A change is written to Redis as an intent, and the
sidecar and the routers follow it.
"""

import logging
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request, Response, Security
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer

from router.api.application import LACKS_REDIS, Problem
from router.api.fleet_admin import Admin, Changes, HostNotAllowed, NamedElsewhere, NewWorker, UnknownWorker
from router.api.schemas import AdminTenant, AdminWorker, FleetNeeds
from router.api.tenant_admin import TenantAdmin, TenantChanges, TooManyTenants
from router.auth.access import AdminGate, peer_in
from router.config.allowlist import Allowed
from router.config.settings import AdminSettings
from router.config.tenants import TenantName
from router.config.workers import WorkerUrl
from router.fleet.counters import Counters
from router.fleet.intents import Intents
from router.fleet.snapshot import FleetView
from router.fleet.tenants import Tenants
from router.telemetry.scaling import Scaling

log = logging.getLogger(__name__)

_STATUS: dict[type[Exception], HTTPStatus] = {
    UnknownWorker: HTTPStatus.NOT_FOUND,
    HostNotAllowed: HTTPStatus.FORBIDDEN,
    NamedElsewhere: HTTPStatus.CONFLICT,
    TooManyTenants: HTTPStatus.CONFLICT,
}

Named = Annotated[WorkerUrl, Query(description="The worker's URL", examples=["http://server1:8080"])]
NamedTenant = Annotated[TenantName, Query(description="The tenant's name", examples=["run-7"])]

# Only for the OpenAPI description: the gate has decided before any body is read.
_DESCRIBED = [Security(HTTPBearer(auto_error=False, description="The admin token"))]


def create_admin(intents: Intents, view: FleetView, settings: AdminSettings, gate: AdminGate) -> APIRouter:
    """Return the endpoints below /admin/workers."""
    admin = Admin(intents, view, Allowed(settings.allowed_workers))
    router = APIRouter(prefix="/admin/workers", tags=["admin"], route_class=_guarded_by(gate), responses=LACKS_REDIS)
    refused: dict[int | str, dict[str, Any]] = {
        401: {"model": Problem, "description": "The admin token is missing or wrong"},
        403: {"model": Problem, "description": "No admin token is set, or the worker is not among the allowed ones"},
    }
    unknown: dict[int | str, dict[str, Any]] = {
        **refused,
        404: {"model": Problem, "description": "No such worker"},
    }
    named_elsewhere: dict[int | str, dict[str, Any]] = {
        409: {"model": Problem, "description": "config.yaml, workers_file or the DNS names the worker"}
    }

    @router.get("", summary="The workers, with their intents", name="list_workers")
    async def list_workers(url: Named | None = None) -> list[AdminWorker]:
        """Return all workers; with `url`, that one if there is one."""
        return await admin.list(url)

    @router.post("", status_code=201, summary="Add a worker, or renew it", dependencies=_DESCRIBED, responses=refused)
    async def add(new: NewWorker, request: Request, response: Response) -> AdminWorker:
        """Register a worker. The status is 201 if the worker is new or has changed, 200 if it is renewed.

        `admin.allowed_workers` must allow its host. The sidecar adds it to the fleet at once, and checks it.
        """
        if await admin.add(new):
            _log_change(request, f"Worker {new.url} added")
        else:
            response.status_code = HTTPStatus.OK
        return await admin.one(new.url)

    @router.delete(
        "",
        status_code=204,
        summary="Remove a worker",
        dependencies=_DESCRIBED,
        responses={**unknown, **named_elsewhere},
    )
    async def remove(url: Named, request: Request) -> None:
        """End a registration. The worker gets no new jobs; those that run on it are answered."""
        await admin.remove(url)
        _log_change(request, f"Worker {url} removed")

    @router.patch("", summary="Set a worker's weight or cap", dependencies=_DESCRIBED, responses=unknown)
    async def change(url: Named, changes: Changes, request: Request) -> AdminWorker:
        """Set a worker's weight, max_concurrency or both, until it leaves the fleet, whatever its source."""
        await admin.change(url, changes)
        _log_change(request, f"Worker {url} set to {changes.model_dump(exclude_unset=True)}")
        return await admin.one(url)

    @router.post("/drain", summary="Keep new jobs from a worker", dependencies=_DESCRIBED, responses=unknown)
    async def drain(url: Named, request: Request) -> AdminWorker:
        """Give the worker no new jobs from now on. `running` falls to 0 as its jobs end."""
        await admin.drain(url, _who(request, gate))
        _log_change(request, f"Worker {url} drained")
        return await admin.one(url)

    @router.post("/resume", summary="Give a drained worker new jobs again", dependencies=_DESCRIBED, responses=unknown)
    async def resume(url: Named, request: Request) -> AdminWorker:
        """Undo a drain."""
        await admin.resume(url, _who(request, gate))
        _log_change(request, f"Worker {url} resumed")
        return await admin.one(url)

    return router


def create_tenant_admin(tenants: Tenants, counters: Counters, gate: AdminGate) -> APIRouter:
    """Return the endpoints below /admin/tenants."""
    admin = TenantAdmin(tenants, counters)
    router = APIRouter(prefix="/admin/tenants", tags=["admin"], route_class=_guarded_by(gate), responses=LACKS_REDIS)
    refused: dict[int | str, dict[str, Any]] = {
        401: {"model": Problem, "description": "The admin token is missing or wrong"},
        403: {"model": Problem, "description": "No admin token is set"},
    }
    too_many: dict[int | str, dict[str, Any]] = {409: {"model": Problem, "description": "Too many tenants have a rule"}}

    @router.get("", summary="The tenants, with their rules and counts", name="list_tenants")
    async def list_tenants(name: NamedTenant | None = None) -> list[AdminTenant]:
        """Return `default` and all tenants with a rule of their own or with counts; with `name`, that one alone."""
        return await admin.list(name)

    @router.patch("", summary="Set a tenant's rule", dependencies=_DESCRIBED, responses={**refused, **too_many})
    async def change(name: NamedTenant, changes: TenantChanges, request: Request) -> AdminTenant:
        """Set fields of a tenant's rule; null: config.yaml's value again. The tenant need not stand in config.yaml."""
        await admin.change(name, changes)
        _log_change(request, f"Tenant {name} set to {changes.model_dump(exclude_unset=True)}")
        return await admin.one(name)

    @router.delete("", status_code=204, summary="Reset a tenant's rule", dependencies=_DESCRIBED, responses=refused)
    async def reset(name: NamedTenant, request: Request) -> None:
        """Forget all that is set of a tenant at run time: it has config.yaml's rule again, or that of `default`."""
        await admin.reset(name)
        _log_change(request, f"Tenant {name} reset")

    return router


def create_scaling(scaling: Scaling, counters: Counters, view: FleetView) -> APIRouter:
    """Return the endpoint /admin/scaling."""
    router = APIRouter(prefix="/admin/scaling", tags=["admin"], responses=LACKS_REDIS)

    @router.get("", summary="How many workers the fleet needs", name="scaling")
    async def needs() -> FleetNeeds:
        """Return the slots that the fleet and each kind of its workers have and need.

        Wanted slots = running jobs + waiting worker-seconds / `target_wait_s`.
        """
        snapshot = view.snapshot
        usage = await counters.usage([record.worker.url for record in snapshot.state.records])
        return FleetNeeds.all_of(scaling.wanted(snapshot, usage), scaling.target_wait_s)

    return router


def _guarded_by(gate: AdminGate) -> type[APIRoute]:
    """Return a route class that asks the gate before it reads a change's body, and that maps errors to statuses."""

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
                except tuple(_STATUS) as error:
                    raise HTTPException(_STATUS[type(error)], str(error)) from error

            return guarded

    return Guarded


def _who(request: Request, gate: AdminGate) -> str:
    """Return who makes a change: a holder of the token, or a user of the router's host, and from which address."""
    return f"the admin token, from {_peer(request)}" if gate.takes_token else _peer(request)


def _log_change(request: Request, what: str) -> None:
    log.info("%s, by %s", what, _peer(request))


def _peer(request: Request) -> str:
    return peer_in(request.scope) or "an unknown peer"
