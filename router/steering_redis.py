"""The fleet as it stands in Redis, for a command that asks no router: by the API's own code, giving its own models."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from router.admin import Admin
from router.api import health_status
from router.fleet.intents import Intents
from router.fleet.stats import Usage
from router.fleet.store import Store, StoreUnavailable
from router.policy.allowed import Allowed
from router.reports import AdminWorker, Report, WorkerStatus
from router.settings import RedisSettings
from router.steering import ANSWER_WITHIN_S, Exit, Failed
from router.view import FleetView

_Value = TypeVar("_Value")


class ThroughRedis:
    """The fleet straight from Redis; each call has a connection of its own."""

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        # The store logs what Failed tells here.
        logging.getLogger("router").addHandler(logging.NullHandler())

    def report(self) -> Report:
        """Return how all of it is, as a router would see it."""

        async def ask(store: Store, view: FleetView) -> Report:
            workers: list[AdminWorker | WorkerStatus] = [*await _admin(store, view).list(None)]
            health = health_status(await view.latest(), store)
            return Report(**health.model_dump(), workers=workers, waiting=(await store.usage(())).waiting)

        return self._run(ask)

    def workers(self) -> list[AdminWorker]:
        """Return all workers."""
        return self._run(lambda store, view: _admin(store, view).list(None))

    def counts(self) -> Usage:
        """Return what all routers have counted, and what runs and waits now."""

        async def ask(store: Store, _: FleetView) -> Usage:
            return await store.usage([record.worker.url for record in (await store.load()).records])

        return self._run(ask)

    def drain(self, url: str) -> AdminWorker:
        """Keep new jobs from a worker."""
        return self._steer(url, lambda intents: intents.drain(url))

    def resume(self, url: str) -> AdminWorker:
        """Let a worker have jobs again."""
        return self._steer(url, lambda intents: intents.resume(url))

    def _steer(self, url: str, act: Callable[[Intents], Awaitable[None]]) -> AdminWorker:
        async def ask(store: Store, view: FleetView) -> AdminWorker:
            admin = _admin(store, view)
            if not await admin.list(url):
                raise Failed(f"{url} is not in the fleet", Exit.REFUSED)
            await act(Intents(store))
            return await admin.one(url)

        return self._run(ask)

    def _run(self, ask: Callable[[Store, FleetView], Awaitable[_Value]]) -> _Value:
        async def run() -> _Value:
            async with self._connected() as store:
                return await ask(store, FleetView(store, ()))

        try:
            return asyncio.run(run())
        except StoreUnavailable as error:
            raise Failed(f"Redis: {error}", Exit.UNREACHABLE) from error

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Store]:
        try:
            store = Store.connect(self._settings, ANSWER_WITHIN_S)
        except ValueError as error:  # redis-py's, and not repeated: the URL may hold a password
            raise Failed("--redis: expected a URL such as redis://localhost:6379/0", Exit.BAD_INPUT) from error
        try:
            yield store
        finally:
            await store.close()


def _admin(store: Store, view: FleetView) -> Admin:
    return Admin(Intents(store), view, Allowed(()))
