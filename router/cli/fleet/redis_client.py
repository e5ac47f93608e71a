"""The fleet as it stands in Redis, for a command that asks no router: by the API's own code, giving its own models."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from router.api.fleet_admin import Admin
from router.api.schemas import AdminWorker, Report, WorkerStatus
from router.api.status import health_status
from router.cli.router_client import ANSWER_WITHIN_S, Exit, Failed
from router.config.allowlist import Allowed
from router.config.settings import RedisSettings
from router.fleet.counters import Counters
from router.fleet.intents import Intents
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.fleet.snapshot import FleetView
from router.fleet.stats import Usage

_Value = TypeVar("_Value")


class RedisFleet:
    """The fleet straight from Redis; each call has a connection of its own."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        # The client logs what Failed tells here.
        logging.getLogger("router").addHandler(logging.NullHandler())

    def report(self) -> Report:
        """Return how all of it is, as a router would see it."""

        async def ask(redis: RedisClient, view: FleetView) -> Report:
            workers: list[AdminWorker | WorkerStatus] = [*await _admin(redis, view).list(None)]
            health = health_status(await view.latest(), redis)
            return Report(**health.model_dump(), workers=workers, waiting=(await Counters(redis).usage(())).waiting)

        return self._run(ask)

    def workers(self) -> list[AdminWorker]:
        """Return all workers."""
        return self._run(lambda redis, view: _admin(redis, view).list(None))

    def counts(self) -> Usage:
        """Return what all routers have counted, and what runs and waits now."""

        async def ask(redis: RedisClient, _: FleetView) -> Usage:
            return await Counters(redis).usage([record.worker.url for record in (await Records(redis).load()).records])

        return self._run(ask)

    def drain(self, url: str) -> AdminWorker:
        """Keep new jobs from a worker."""
        return self._steer(url, lambda intents: intents.drain(url))

    def resume(self, url: str) -> AdminWorker:
        """Let a worker have jobs again."""
        return self._steer(url, lambda intents: intents.resume(url))

    def _steer(self, url: str, act: Callable[[Intents], Awaitable[None]]) -> AdminWorker:
        async def ask(redis: RedisClient, view: FleetView) -> AdminWorker:
            admin = _admin(redis, view)
            if not await admin.list(url):
                raise Failed(f"{url} is not in the fleet", Exit.REFUSED)
            await act(Intents(redis))
            return await admin.one(url)

        return self._run(ask)

    def _run(self, ask: Callable[[RedisClient, FleetView], Awaitable[_Value]]) -> _Value:
        async def run() -> _Value:
            async with self._connected() as redis:
                return await ask(redis, FleetView(redis, ()))

        try:
            return asyncio.run(run())
        except RedisUnavailable as error:
            raise Failed(f"Redis: {error}", Exit.UNREACHABLE) from error

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[RedisClient]:
        try:
            redis = RedisClient.connect(self._settings, ANSWER_WITHIN_S)
        except ValueError as error:  # redis-py's, and not repeated: the URL may hold a password
            raise Failed("--redis: expected a URL such as redis://localhost:6379/0", Exit.BAD_INPUT) from error
        try:
            yield redis
        finally:
            await redis.close()


def _admin(redis: RedisClient, view: FleetView) -> Admin:
    return Admin(Intents(redis), view, Allowed(()))
