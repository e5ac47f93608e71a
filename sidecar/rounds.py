"""Repeats a task of the sidecar forever. A fault ends one round, but never the sidecar."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Never

from router.logs import fault_of

log = logging.getLogger(__name__)


async def forever(one_round: Callable[[], Awaitable[None]], pause_s: float) -> Never:
    """Run `one_round` again and again, with a pause after each.

    An error is logged, unless the round before raised the same one.
    """
    fault = ""
    while True:
        fault = await fault_of(one_round, fault, log, "The sidecar goes on after a fault of its own")
        await asyncio.sleep(pause_s)
