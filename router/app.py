"""The composition root: builds the router's parts and connects them. It decides nothing."""

import asyncio
import gc
import multiprocessing
import os
import secrets
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from router import logs
from router.access import OPEN, Access, AdminGate
from router.admin import create_admin
from router.api import create_api
from router.asgi import Application, JobDoor
from router.batch import BatchDoor
from router.bodies import Buffers
from router.dashboard.door import DashboardDoor
from router.dashboard.feed import Feed
from router.dispatch import Dispatcher
from router.downstream import DOOR, TIMEOUTS
from router.either_exchange import EitherExchange
from router.fleet.exchange import configured_rules
from router.fleet.intents import Intents
from router.fleet.store import Store
from router.fleet.workers_file import known_workers
from router.keydoor import KeyDoor
from router.leases import Leases
from router.metrics import Metrics
from router.policy.patience import ClientTimeouts
from router.reporting import Reporting
from router.settings import Settings
from router.tally import Tally
from router.upstream import Upstream
from router.view import FleetView

if TYPE_CHECKING:
    from router.traces import Traces

# No request waits longer for Redis.
REDIS_TIMEOUT_S = 0.25
_GARBAGE_AFTER = 20_000
_FOR_PAGES = ("x-router-worker", "x-router-attempt", "x-router-queue-ms", "x-request-id", "retry-after")


def create_app(settings: Settings, access: Access = OPEN) -> Application:
    """Return the router as an ASGI application; it connects to Redis when the server starts it."""
    store = Store.connect(settings.redis, REDIS_TIMEOUT_S)
    first_workers = known_workers(settings)
    view = FleetView(store, first_workers)
    processes = int(os.environ.get("WEB_CONCURRENCY") or 1)
    traces = _traces(settings)
    tally = Tally() if traces is None else traces.tally()
    exchange = EitherExchange(store, view, configured_rules(settings), processes, tally)
    leases = Leases(exchange, store, view, process_name(), tally)
    upstream = Upstream(settings.tls) if traces is None else traces.upstream(settings.tls)
    dispatcher_of = Dispatcher if traces is None else traces.dispatcher
    dispatcher = dispatcher_of(leases, upstream, view, settings, tally)
    reporting = Reporting(tally, Metrics(), store, view, leases, exchange)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        logs.expect_cut_answers()
        if not _is_announced_elsewhere():
            logs.announce(first_workers)
        if traces is not None:
            traces.start()
        await view.refresh()
        running = [asyncio.create_task(part.run()) for part in (view, leases, reporting)]
        # What is there now stays: the garbage collector need not walk it again (130 ms with 11,000 jobs waiting). And
        # jobs leave no circles behind: to look for them after each 700 new objects costs a job 2 µs.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GARBAGE_AFTER)
        yield {TIMEOUTS: ClientTimeouts(settings.client_body_timeout, settings.client_read_timeout), DOOR: door}
        await dispatcher.finish()
        await leases.flush()
        await reporting.finish()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        upstream.close()
        await store.close()
        if traces is not None:
            await traces.close()

    buffers = Buffers(int(settings.max_buffered_mb * 2**20))
    api = create_api(view, store, reporting.page, lifespan)
    gate = AdminGate(access.admin_token, allow_loopback=settings.admin.allow_loopback)
    api.include_router(create_admin(Intents(store), view, settings.admin, gate))
    dashboard = DashboardDoor(Feed(store, view, settings.health_check_interval), gate, api)
    batches = BatchDoor(dispatcher, dashboard, buffers, settings, tally)
    if access.api_keys:
        door: JobDoor = KeyDoor(dispatcher, batches, buffers, settings, tally, access.api_keys)
    else:
        door = JobDoor(dispatcher, batches, buffers, settings, tally)
    return _with_cors(door, settings.cors_origins) if settings.cors_origins else door


def _with_cors(door: JobDoor, origins: Sequence[str]) -> Application:
    """Let pages of these origins send what they like, read all answers and the header fields that the router adds."""
    return CORSMiddleware(door, origins, allow_methods=["*"], allow_headers=["*"], expose_headers=_FOR_PAGES)


def _traces(settings: Settings) -> "Traces | None":
    """Return what makes spans, where that is wanted; OpenTelemetry is not imported before."""
    if settings.traces.endpoint is None:
        return None
    from router.traces import Traces  # noqa: PLC0415  (it may not be installed)

    return Traces(settings.traces.endpoint)


def process_name() -> str:
    """Return a name for this process that no other has, on any host, now or later."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _is_announced_elsewhere() -> bool:
    """Whether another process speaks for this one: gunicorn's master, or the first of uvicorn's workers."""
    under_gunicorn = os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn")
    return under_gunicorn or multiprocessing.current_process().name not in ("MainProcess", "SpawnProcess-1")
