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
from router.aio import lasting
from router.api.admin import create_admin, create_scaling, create_tenant_admin
from router.api.application import create_api
from router.api.failures import create_failures
from router.api.history import create_history
from router.api.journal import create_journal
from router.auth.access import OPEN, Access, AdminGate, JobGate
from router.auth.origin import Pages
from router.config.settings import Settings
from router.config.tenants import rules_of
from router.dashboard.details import Details
from router.dashboard.feed import Feed
from router.dashboard.handler import DashboardHandler
from router.downstream.connection import HANDLER, TIMEOUTS
from router.downstream.notices import NOTICES
from router.file_handles import FileHandles
from router.fleet.counters import Counters
from router.fleet.detail.present import Present
from router.fleet.intents import Intents
from router.fleet.journal.history import FleetHistory
from router.fleet.redis_client import RedisClient
from router.fleet.sizes import FleetSizes
from router.fleet.snapshot import FleetView
from router.fleet.tenants import Tenants
from router.fleet.worker_list import announce, known_workers
from router.http.asgi import Application
from router.jobs.batch.handler import BatchHandler
from router.jobs.body_budget import BodyBudget
from router.jobs.dispatcher import Dispatcher
from router.jobs.handler import JobHandler
from router.jobs.sooner.groups import GroupFailed, Groups
from router.jobs.sooner.sizes import Sizes
from router.jobs.sooner.transport import Transport
from router.policy.client_timeouts import ClientTimeouts
from router.scheduling.failover import FailoverScheduler
from router.scheduling.inbox import Inbox
from router.scheduling.leases import Leases
from router.scheduling.messages import configured_rules
from router.scheduling.outbox import Outbox
from router.telemetry.chronicle import Chronicle
from router.telemetry.multiprocess import SharedCounts
from router.telemetry.prometheus import Metrics, ProcessState
from router.telemetry.publisher import Publisher
from router.telemetry.recorder import Recorder
from router.telemetry.scaling import Scaling
from router.upstream.pool import WorkerPool

if TYPE_CHECKING:
    from router.jobs.tracing import Traces

# The longest wait of a request for Redis.
REDIS_TIMEOUT_S = 0.25
_GARBAGE_AFTER = 20_000
_FOR_PAGES = (
    "x-router-worker",
    "x-router-attempt",
    "x-router-queue-ms",
    "x-router-tenant",
    "x-request-id",
    "retry-after",
)


def create_app(settings: Settings, access: Access = OPEN) -> Application:
    """Return the router as an ASGI application; it connects to Redis when the server starts it."""
    redis = RedisClient.connect(settings.redis, REDIS_TIMEOUT_S)
    first_workers = known_workers(settings)
    view = FleetView(redis, first_workers, rules_of(settings.tenants), settings.hedge.slower_than)
    traces = _traces(settings)
    recorder = Recorder()
    scheduler = FailoverScheduler(redis, view, configured_rules(settings), _processes(), recorder)
    process = process_name()
    inbox = Inbox(redis, process)
    leases = Leases(scheduler, inbox, view, process, recorder, settings.queue.without_workers)
    upstream = WorkerPool(settings.tls, access.worker_auth)
    sizes = Sizes(view, FleetSizes(redis, settings.sizes.max))
    groups = Groups(Outbox(redis, process).send)
    inbox.hear(GroupFailed, groups.hear)
    dispatcher = Dispatcher(
        *(leases, upstream, view, settings, recorder, sizes, traces.job_begins if traces else None, groups),
        Transport(redis, inbox, process),
    )
    dispatcher.reuse.hear(inbox)
    chronicle = Chronicle(
        *(redis, recorder, process, NOTICES.take, access.take_key_news), leader=lambda: view.snapshot.leader
    )
    publisher = Publisher(
        recorder,
        Metrics(SharedCounts.inherited()),
        redis,
        view,
        lambda: ProcessState(*leases.load(), is_alone=scheduler.is_alone),
        Scaling(settings.scaling.target_wait),
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
        logs.expect_cut_answers()
        if not _is_announced_elsewhere():
            announce(first_workers)
        if traces is not None:
            traces.start()
        await view.refresh()
        api.openapi()  # made once and kept: before the first client could wait for it
        running = [
            asyncio.create_task(lasting(part.run))
            for part in (view, leases, publisher, chronicle, sizes, FileHandles(), access)
        ]
        _collect_seldom()
        yield {TIMEOUTS: ClientTimeouts(settings.client_body_timeout, settings.client_read_timeout), HANDLER: handler}
        await dispatcher.finish()
        await leases.flush()
        await publisher.finish()
        await sizes.tell()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await chronicle.finish()
        upstream.close()
        await redis.close()
        if traces is not None:
            await traces.close()

    buffers = BodyBudget(int(settings.max_buffered_mb * 2**20))
    api = create_api(view, redis, publisher.page, lifespan)
    admin_gate = AdminGate(access.admin_token, allow_loopback=settings.admin.allow_loopback)
    counters = Counters(redis)
    _serve_admin(api, redis, counters, view, settings, admin_gate, publisher)
    feed = Feed(redis, counters, view, settings.health_check_interval)
    dashboard = DashboardHandler(feed, Details(Present(redis), view, publisher.processes), admin_gate, api)
    batches = BatchHandler(dispatcher, dashboard, buffers, settings, recorder, sizes)
    job_gate = JobGate(Pages(settings.cors_origins, settings.trusted_hosts), access.api_keys)
    handler = JobHandler(dispatcher, batches, job_gate, buffers, settings, recorder)
    return _with_cors(handler, settings.cors_origins) if settings.cors_origins else handler


def _serve_admin(
    api: FastAPI,
    redis: RedisClient,
    counters: Counters,
    view: FleetView,
    settings: Settings,
    gate: AdminGate,
    publisher: Publisher,
) -> None:
    """Add the endpoints below /admin."""
    api.include_router(create_scaling(publisher.scaling, counters, view))
    api.include_router(create_admin(Intents(redis), view, settings.admin, gate))
    api.include_router(create_tenant_admin(Tenants(redis), counters, gate))
    api.include_router(create_journal(redis))
    api.include_router(create_failures(redis))
    api.include_router(create_history(FleetHistory(redis)))


def _collect_seldom() -> None:
    """Have the garbage collector look for cycles seldom.

    Jobs leave none behind, and it need not visit the objects that exist now: they stay.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_AFTER)


def _with_cors(handler: JobHandler, origins: Sequence[str]) -> Application:
    """Let pages of these origins send any request, and read its answer and the header fields that the router adds."""
    return CORSMiddleware(handler, origins, allow_methods=["*"], allow_headers=["*"], expose_headers=_FOR_PAGES)


def _traces(settings: Settings) -> "Traces | None":
    """Return what makes spans; None, without importing OpenTelemetry, if no traces are configured."""
    if settings.traces.endpoint is None:
        return None
    from router.jobs.tracing import Traces  # noqa: PLC0415  (it may not be installed)

    return Traces(settings.traces.endpoint)


def _processes() -> int:
    """Return how many processes of the router gunicorn runs here."""
    return int(os.environ.get("WEB_CONCURRENCY") or 1)


def process_name() -> str:
    """Return a name for this process that no other process has, on any host, at any time."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _is_announced_elsewhere() -> bool:
    """Whether another process logs the start for this one: gunicorn's master, or the first of uvicorn's workers."""
    under_gunicorn = os.environ.get("SERVER_SOFTWARE", "").startswith("gunicorn")
    return under_gunicorn or multiprocessing.current_process().name not in ("MainProcess", "SpawnProcess-1")
