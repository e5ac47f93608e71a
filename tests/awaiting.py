"""What the router's parts deliver by a call, for tests and benchmarks that wait for it in a coroutine."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import TypeVar

from router.leases import Leases
from router.response import Response
from router.upstream import Request, Upstream, UpstreamFailed
from router.waiter import Lease, NoRoom

_Value = TypeVar("_Value")


async def sent(upstream: Upstream, worker_url: str, request: Request, timeout_s: float) -> Response:
    """Send a request to a worker; return its answer. Raises UpstreamFailed."""
    answered: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
    upstream.send(worker_url, request, timeout_s, _into(answered))
    return await answered


async def leased(
    leases: Leases, bound_s: float, wait_s: float, has_left: Callable[[], Coroutine[None, None, None]]
) -> Lease:
    """Ask for a lease; return it. Raises NoRoom; cancelled, it gives up its place."""
    given: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()
    waiter = leases.ask(bound_s, wait_s, has_left, _into(given))
    try:
        return await given
    except asyncio.CancelledError:
        leases.give_up(waiter)
        raise


def _into(future: "asyncio.Future[_Value]") -> Callable[[_Value | UpstreamFailed | NoRoom], None]:
    def deliver(outcome: _Value | UpstreamFailed | NoRoom) -> None:
        assert not future.done() or future.cancelled(), "delivered twice"
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return deliver
