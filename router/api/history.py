"""`/admin/history`: the fleet's rates of the last minutes, hour or day. Everyone may look, as with `GET /`."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response

from router.api import schemas
from router.api.application import LACKS_REDIS
from router.fleet.journal.history import FleetHistory
from router.fleet.journal.points import Range

_encode = msgspec.json.Encoder().encode


def create_history(history: FleetHistory) -> APIRouter:
    """Return the endpoint /admin/history."""
    router = APIRouter(tags=["admin"])

    # The answer may hold a hundred thousand numbers, so it does not pass through a model.
    @router.get(
        "/admin/history",
        summary="The fleet's rates, step by step",
        response_class=Response,
        responses={200: {"model": schemas.History, "description": "The history"}, **LACKS_REDIS},
    )
    async def read_history(
        span: Annotated[Range, Query(alias="range", description="How much of the past")] = Range.HOUR,
    ) -> Response:
        """Return steps of 10 s for `5m` and `1h`, and of 1 min for `24h`, up to now."""
        return Response(_encode(await history.read(span)), media_type="application/json")

    return router
