"""`/admin/events`: what has happened in the fleet. Everyone may look, as with `GET /`."""

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from router.api.application import LACKS_REDIS
from router.api.schemas import EventPage
from router.config.workers import WorkerUrl
from router.fleet.journal.events import Events
from router.fleet.journal.model import DEFAULT_EVENTS, MAX_EVENTS, Asked, Kind, Since
from router.fleet.redis_client import RedisClient, RedisUnavailable

# What an operator has to know who asks for events at that moment.
_MEANWHILE = (
    "Jobs go on without it, and events are kept in it: they are shown when it is back "
    "(docs/failures.md#what-the-router-and-the-sidecar-show)"
)


def _readable(text: str) -> str:
    try:
        Since.read(text)
    except ValueError as error:
        raise PydanticCustomError("since", str(error)) from error
    return text


_Since = Annotated[str, AfterValidator(_readable), Query(description="an event's id, a moment in ISO 8601, or 10m")]


def create_journal(redis: RedisClient) -> APIRouter:
    """Return the endpoint /admin/events."""
    events = Events(redis)
    router = APIRouter(prefix="/admin", tags=["admin"], responses=LACKS_REDIS)

    @router.get("/events", summary="What has happened")
    async def list_events(
        since: _Since | None = None,
        limit: Annotated[int, Query(ge=1, le=MAX_EVENTS)] = DEFAULT_EVENTS,
        kind: Annotated[list[Kind] | None, Query(description="only these kinds; may be repeated")] = None,
        worker: Annotated[WorkerUrl | None, Query(description="only events about the worker at this URL")] = None,
    ) -> EventPage:
        """Return events, the oldest first: without `since` the last ones, else the first ones since then."""
        try:
            page = await events.read(Asked(since, limit, tuple(kind or ()), worker))
        except RedisUnavailable as error:
            raise RedisUnavailable(f"{error}. {_MEANWHILE}") from error
        return EventPage.of(page, redis.trouble)

    return router
