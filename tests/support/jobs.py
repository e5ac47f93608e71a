"""A job without a connection: it is admitted, and its client stays."""

import asyncio
from collections.abc import Callable, Coroutine

from router.auth.access import Admission
from router.jobs.body_budget import BodyBudget
from router.jobs.job import Job

ADMITTED = Admission([])


async def stays() -> None:
    """Never return, because the client does not leave."""
    await asyncio.Event().wait()


def made_job(
    body: bytes = b"", target: bytes = b"/run_code", has_left: Callable[[], Coroutine[None, None, None]] = stays
) -> Job:
    """Return a job for /run_code."""
    return Job(b"POST", "/run_code", target, b"", body, b"id", has_left, BodyBudget(1).share(), ADMITTED)
