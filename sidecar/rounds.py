"""Repeats a task of the sidecar forever. A fault ends one round, but never the sidecar."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Never

log = logging.getLogger(__name__)


async def forever(one_round: Callable[[], Awaitable[None]], pause_s: float) -> Never:
    """Run `one_round` again and again, with a pause after each.

    An error is logged, unless the round before raised the same one.
    """
    before = ""
    while True:
        try:
            await one_round()
        except Exception as error:  # whatever the fault is, workers must still be checked
            if before != (before := repr(error)):
                log.exception("The sidecar goes on after a fault of its own")
        else:
            before = ""
        await asyncio.sleep(pause_s)
