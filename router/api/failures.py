"""`/admin/failures`: the last jobs that ended without a result. Everyone may look, as with `GET /`."""

from typing import Annotated

from fastapi import APIRouter, Query

from router.api.application import LACKS_REDIS
from router.api.schemas import FailedJobs
from router.config.tenants import TenantName
from router.config.workers import WorkerUrl
from router.fleet.journal.failed_job import MOST, SHOWN, Search
from router.fleet.journal.failures import Failures
from router.fleet.redis_client import RedisClient

Limit = Annotated[int, Query(ge=1, le=MOST, description="At most so many")]
OfRequest = Annotated[
    str,
    Query(min_length=1, max_length=200, description="Those of this `x-request-id`; a batch's finds all of its jobs"),
]
OfTenant = Annotated[TenantName, Query(description="Those of this tenant")]
OfWorker = Annotated[WorkerUrl, Query(description="Those with an attempt on this worker")]


def create_failures(redis: RedisClient) -> APIRouter:
    """Return the endpoint /admin/failures."""
    failures = Failures(redis)
    router = APIRouter(tags=["admin"], responses=LACKS_REDIS)

    @router.get("/admin/failures", summary="The last failed jobs")
    async def list_failures(
        limit: Limit = SHOWN,
        request_id: OfRequest | None = None,
        tenant: OfTenant | None = None,
        worker: OfWorker | None = None,
    ) -> FailedJobs:
        """Return the last jobs that ended without a result, by no fault of their clients or their code."""
        found = Search(request_id, tenant, worker, limit).found(await failures.last())
        return FailedJobs.of(found, redis.trouble)

    return router
