"""The fleet as Redis holds it, for a command that asks no router. It uses the API's own code and models."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
from pydantic import ValidationError

from router.api.fleet_admin import Admin, UnknownWorker
from router.api.schemas import AdminTenant, AdminWorker, EventPage, FailedJobs, History, Report, WorkerStatus
from router.api.status import health_status
from router.api.tenant_admin import TenantAdmin, TenantChanges, TooManyTenants
from router.cli.failure import BadInput, Exit, Failed
from router.cli.router_client import ANSWER_WITHIN_S
from router.config.allowlist import Allowed
from router.config.settings import RedisSettings
from router.fleet.counters import Counters
from router.fleet.intents import Intents
from router.fleet.journal.events import Events
from router.fleet.journal.failed_job import Search
from router.fleet.journal.failures import Failures
from router.fleet.journal.history import FleetHistory
from router.fleet.journal.model import Asked
from router.fleet.journal.points import Range
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.fleet.snapshot import FleetView
from router.fleet.stats import Usage
from router.fleet.tenants import Tenants, flaws

_Value = TypeVar("_Value")


class RedisFleet:
    """The fleet straight from Redis; each call makes a connection of its own."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        # Silences what the Redis client logs: the command shows the same as its Failed.
        logging.getLogger("router").addHandler(logging.NullHandler())

    def report(self) -> Report:
        """Return the state of the whole fleet, as a router would see it."""

        async def ask(redis: RedisClient) -> Report:
            view = FleetView(redis, ())
            workers: list[AdminWorker | WorkerStatus] = [*await _admin(redis, view).list(None)]
            health = health_status(await view.latest(), redis)
            return Report(**health.model_dump(), workers=workers, waiting=(await Counters(redis).usage(())).waiting)

        return self._run(ask)

    def workers(self) -> list[AdminWorker]:
        """Return all workers."""
        return self._run(lambda redis: _admin(redis).list(None))

    def counts(self) -> Usage:
        """Return what all routers have counted, and the jobs that run and are pending now."""

        async def ask(redis: RedisClient) -> Usage:
            return await Counters(redis).usage([record.worker.url for record in (await Records(redis).load()).records])

        return self._run(ask)

    def drain(self, url: str) -> AdminWorker:
        """Keep new jobs from a worker."""
        return self._steer(url, Admin.drain)

    def resume(self, url: str) -> AdminWorker:
        """Give a drained worker new jobs again."""
        return self._steer(url, Admin.resume)

    def tenants(self) -> list[AdminTenant]:
        """Return all tenants that have a rule of their own or counts, and `default`."""
        return self._run(lambda redis: _tenant_admin(redis).list())

    def events(self, asked: Asked) -> EventPage:
        """Return what has happened."""
        return EventPage.of(self._run(lambda redis: Events(redis).read(asked)))

    def failures(self, search: Search) -> FailedJobs:
        """Return the last failed jobs."""
        return FailedJobs.of(search.found(self._run(lambda redis: Failures(redis).last())))

    def history(self, span: Range) -> History:
        """Return the fleet's rates, step by step."""
        found = self._run(lambda redis: FleetHistory(redis).read(span))
        return History(**msgspec.structs.asdict(found))

    def change_tenant(self, name: str, fields: dict[str, Any]) -> AdminTenant:
        """Set fields of a tenant's rule; None: the value that it came with."""

        async def ask(redis: RedisClient) -> AdminTenant:
            admin = _tenant_admin(redis)
            await admin.change(name, changes)
            return await admin.one(name)

        try:
            changes = TenantChanges.model_validate(fields)
            return self._run(ask)
        except ValidationError as error:
            raise Failed(flaws(error), Exit.FAILED) from error
        except TooManyTenants as error:
            raise Failed(str(error), Exit.FAILED) from error

    def reset_tenant(self, name: str) -> None:
        """Forget all that is set of a tenant."""
        self._run(lambda redis: _tenant_admin(redis).reset(name))

    def _steer(self, url: str, act: Callable[[Admin, str], Awaitable[None]]) -> AdminWorker:
        async def ask(redis: RedisClient) -> AdminWorker:
            admin = _admin(redis)
            await act(admin, url)
            return await admin.one(url)

        try:
            return self._run(ask)
        except UnknownWorker as error:
            raise Failed(str(error), Exit.FAILED) from error

    def _run(self, ask: Callable[[RedisClient], Awaitable[_Value]]) -> _Value:
        async def run() -> _Value:
            async with self._connected() as redis:
                return await ask(redis)

        try:
            return asyncio.run(run())
        except RedisUnavailable as error:
            raise Failed(f"Redis: {error}", Exit.UNREACHABLE) from error

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[RedisClient]:
        try:
            redis = RedisClient.connect(self._settings, ANSWER_WITHIN_S)
        except ValueError as error:  # redis-py's own; the URL is not repeated, because it may hold a password
            raise BadInput("--redis: expected a URL such as redis://localhost:6379/0") from error
        try:
            yield redis
        finally:
            await redis.close()


def _admin(redis: RedisClient, view: FleetView | None = None) -> Admin:
    return Admin(Intents(redis), view or FleetView(redis, ()), Allowed(()))


def _tenant_admin(redis: RedisClient) -> TenantAdmin:
    return TenantAdmin(Tenants(redis), Counters(redis))
