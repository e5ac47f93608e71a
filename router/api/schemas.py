"""What the API tells of the fleet, as models: for those who answer and for the commands that ask.

Apart from FastAPI, which takes a command longer to load than all that it does.
"""

from datetime import datetime
from typing import Self

from pydantic import BaseModel, Field

from router.fleet.model import Health
from router.fleet.stats import Usage, WorkerStats, WorkerUsage


class WorkerStatus(BaseModel):
    """One worker, as the sidecar last saw it."""

    url: str
    healthy: bool
    health: Health
    since: datetime | None = Field(description="when `health` last changed")
    checked_at: datetime | None
    latency_ms: float | None = Field(description="how long the last health check took")
    failures: int = Field(description="failed checks in a row")
    last_error: str = Field(description="of the last health check that failed, be it long ago")
    weight: int
    max_concurrency: int | None
    source: str
    ejected_until: datetime | None = Field(
        None, description="when the breaker tries it with one job; null: it keeps no jobs from it"
    )
    ejected_because: str = Field("", description="why the breaker keeps jobs from it; empty: it does not")


class SidecarStatus(BaseModel):
    """The health checker behind the workers' states."""

    leader: str | None = Field(description="fencing token and name of the sidecar that leads; null: none does")
    age_seconds: float | None = Field(description="how old the workers' states are; null: no sidecar has written any")


class FleetStatus(BaseModel):
    """The answer of `GET /`."""

    service: str
    version: str
    redis: str = Field(description="available or unavailable", examples=["available"])
    sidecar: SidecarStatus
    workers: list[WorkerStatus]


class HealthStatus(BaseModel):
    """The answer of `GET /health`; `unhealthy`, with 503, only where no job could be routed."""

    status: str = Field(examples=["healthy"])
    total_workers: int
    healthy_workers: int
    quarantined_jobs: int
    redis: str = Field(description="available or unavailable", examples=["available"])
    sidecar: SidecarStatus


class Overrides(BaseModel):
    """What was set at run time and wins over what the worker came with; null: nothing."""

    weight: int | None
    max_concurrency: int | None


class AdminWorker(WorkerStatus):
    """One worker, with what is wanted of it and what it does at this moment."""

    running: int = Field(description="its leases: jobs that run on it")
    draining: bool = Field(description="it gets no new job")
    registered: bool = Field(description="it was registered at run time")
    expires_in_seconds: float | None = Field(
        description="when its registration ends, unless renewed; null: not by itself"
    )
    overrides: Overrides


class Report(HealthStatus):
    """The whole fleet. Workers are WorkerStatus where Redis is away, for then nobody knows what runs on them."""

    workers: list[AdminWorker | WorkerStatus]
    waiting: int | None = Field(None, description="jobs that wait for room; null: not known without Redis")


class WorkerCounts(BaseModel):
    """What all routers have counted of one worker, and what it does at this moment."""

    running: int = Field(description="its leases: jobs that run on it")
    breaker_failures: int = Field(description="failed jobs in a row")
    ejected_until: float = Field(description="Unix time; 0: it is not ejected")
    jobs: int = Field(description="attempts that ended there")
    failures: int = Field(description="those of them without a result")
    busy_ms: int = Field(description="how long all of them took together")


class FleetCounts(BaseModel):
    """The answer of `GET /admin/stats`. Counts only grow, but for a Redis that was emptied; rates are differences."""

    waiting: int = Field(description="jobs that wait for room")
    running: int = Field(description="jobs that run")
    retries_left: float = Field(description="retries that the fleet's budget holds")
    fleet: dict[str, int] = Field(
        description="jobs, errors, attempts, retries; le_N: jobs that took up to N seconds and more than the N before",
        examples=[{"jobs": 2, "attempts": 2, "le_0.05": 2}],
    )
    workers: dict[str, WorkerCounts] = Field(description="by URL")

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """Return what Redis tells, as the API tells it."""
        workers = {
            url: WorkerCounts(
                running=worker.leases,
                breaker_failures=worker.breaker_failures,
                ejected_until=worker.ejected_until,
                jobs=worker.stats.jobs,
                failures=worker.stats.failures,
                busy_ms=worker.stats.busy_ms,
            )
            for url, worker in usage.workers.items()
        }
        running = sum(worker.running for worker in workers.values())
        return cls(
            waiting=usage.waiting, running=running, retries_left=usage.retries_left, fleet=usage.fleet, workers=workers
        )

    def usage(self) -> Usage:
        """Return it as Redis tells it."""
        workers = {
            url: WorkerUsage(
                worker.running,
                worker.breaker_failures,
                worker.ejected_until,
                WorkerStats(worker.jobs, worker.failures, worker.busy_ms),
            )
            for url, worker in self.workers.items()
        }
        return Usage(self.waiting, self.retries_left, self.fleet, workers)
