"""What the sidecar does for ever, round after round: a fault ends one round, and never the sidecar."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Never

log = logging.getLogger(__name__)


async def for_ever(one_round: Callable[[], Awaitable[None]], pause_s: float) -> Never:
    """Run `one_round` again and again, with a pause after each. What it raises is logged; the same again is not."""
    told = ""
    while True:
        try:
            await one_round()
        except Exception as error:  # whatever it is, the fleet's health must go on being looked at
            if told != (told := repr(error)):
                log.exception("The sidecar goes on after a fault of its own")
        else:
            told = ""
        await asyncio.sleep(pause_s)
