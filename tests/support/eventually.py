"""Waits for conditions instead of a fixed time."""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from router.http.response import Response, UpstreamFailed
from router.scheduling.leases import Leases
from router.scheduling.pending import Lease, NoRoom
from router.upstream.pool import Request, WorkerPool

_POLL_S = 0.02


async def eventually(
    condition: Callable[[], object | Awaitable[object]], within_s: float = 20.0, what: str = "the condition"
) -> None:
    """Return when `condition` holds; raise AssertionError if it does not within `within_s` seconds."""
    deadline = asyncio.get_running_loop().time() + within_s
    while True:
        holds = condition()
        if inspect.isawaitable(holds):
            holds = await holds
        if holds:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise AssertionError(f"{what} did not come true within {within_s:g} s")
        await asyncio.sleep(_POLL_S)


_Value = TypeVar("_Value")


async def sent(upstream: WorkerPool, worker_url: str, request: Request, timeout_s: float) -> Response:
    """Send a request to a worker and return its answer. Raises UpstreamFailed."""
    answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    upstream.send(worker_url, request, timeout_s, _into(answered))
    return await answered


async def leased(
    leases: Leases, bound_s: float, wait_s: float, has_left: Callable[[], Coroutine[None, None, None]]
) -> Lease:
    """Ask for a lease and return it. Raises NoRoom. A cancelled call gives up its pending job."""
    given: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
    pending = leases.ask(bound_s, wait_s, has_left, _into(given))
    try:
        return await given
    except asyncio.CancelledError:
        leases.give_up(pending)
        raise


def _into(future: "asyncio.Future[_Value]") -> Callable[[_Value | UpstreamFailed | NoRoom], None]:
    def deliver(outcome: _Value | UpstreamFailed | NoRoom) -> None:
        assert not future.done() or future.cancelled(), "delivered twice"
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return deliver
