"""The API's models of the fleet, for the endpoints that answer and the commands that ask.

They do not import FastAPI, because loading it would delay every command.
"""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any, Self

import msgspec
from pydantic import BaseModel, Field

from router.config.tenants import TenantOverrides, TenantReuse
from router.fleet.journal.failed_job import Failure
from router.fleet.journal.model import Page, Told, help_on
from router.fleet.model import Health
from router.fleet.stats import TenantStats, TenantUsage, Usage, WorkerStats, WorkerUsage
from router.policy.scaling import Wanted, whole

# What `redis` says if it can be used.
AVAILABLE = "available"
_BECAUSE = "why Redis takes nothing new at the moment, so that the latest may be missing here; empty: it does"


class WorkerStatus(BaseModel):
    """One worker, as the sidecar last saw it."""

    url: str
    healthy: bool
    health: Health
    since: datetime | None = Field(description="when `health` last changed")
    checked_at: datetime | None
    latency_ms: float | None = Field(description="how long the last health check took")
    failures: int = Field(description="failed checks in a row")
    last_error: str = Field(description="of the last health check that failed, however long ago")
    weight: int
    max_concurrency: int | None
    source: str
    labels: list[str] = Field([], description="what jobs may ask for by `x-router-labels`")
    languages: list[str] = Field([], description="the languages that it runs; empty: every language")
    memory_mb: int | None = Field(None, description="its memory for jobs; null: their memory is not counted")
    speed: float = Field(
        1.0, description="how fast it runs jobs; 1: as the fleet's median, or not known; 0.33: in three times the time"
    )
    ejected_until: datetime | None = Field(
        None, description="when the breaker gives it one trial job; null: it is not ejected"
    )
    ejected_because: str = Field("", description="why the breaker ejected it; empty: it is not ejected")


class SidecarStatus(BaseModel):
    """The sidecar, which checks the workers."""

    leader: str | None = Field(description="fencing token and name of the sidecar that leads; null: none does")
    age_seconds: float | None = Field(description="how old the workers' records are; null: no sidecar has written any")
    schema_version: int | None = Field(
        None, description="the version of Redis' keys that it writes; null: no sidecar has written"
    )


class FleetStatus(BaseModel):
    """The answer of `GET /`."""

    service: str
    version: str
    redis: str = Field(description="available or unavailable", examples=["available"])
    sidecar: SidecarStatus
    workers: list[WorkerStatus]


class HealthStatus(BaseModel):
    """The answer of `GET /health`. `unhealthy`, with 503, means that no job can be routed."""

    status: str = Field(examples=["healthy"])
    total_workers: int
    healthy_workers: int
    quarantined_jobs: int
    redis: str = Field(description="available or unavailable", examples=["available"])
    redis_because: str = Field("", description="why Redis is unavailable; empty: it is available")
    sidecar: SidecarStatus


class Overrides(BaseModel):
    """Values set at run time, which win over those that the worker came with; null: not set."""

    weight: int | None
    max_concurrency: int | None


class AdminWorker(WorkerStatus):
    """One worker, with its intents and the number of its running jobs."""

    running: int = Field(description="its leases: jobs that run on it")
    draining: bool = Field(description="it gets no new jobs")
    registered: bool = Field(description="it was registered at run time")
    expires_in_seconds: float | None = Field(
        description="when its registration ends, unless it is renewed; null: never"
    )
    overrides: Overrides


class EventEntry(BaseModel):
    """One thing that has happened in the fleet."""

    id: str = Field(description="its id in the stream, in order of time", examples=["1795932000000-0"])
    at: datetime = Field(description="when Redis has taken it in")
    kind: str = Field(examples=["worker_ejected"])
    subject: str = Field(description="the worker's URL, tenant, process or host that it is about; may be empty")
    text: str = Field(description="what has happened, in one sentence")
    by: str = Field(description="whose doing it is, or which program has seen it")
    more: dict[str, Any] = Field(description="what programs may want to read of it")
    help: str = Field(description="where the documentation explains this kind of event")

    @classmethod
    def of(cls, told: Told) -> Self:
        """Return an event of the journal as the API's model."""
        return cls(id=told.id, at=told.at, help=help_on(told.event.kind), **asdict(told.event))


class EventPage(BaseModel):
    """Some events, the oldest first. `GET /admin/events?since=` the value of `next` answers those that come later."""

    events: list[EventEntry]
    next: str
    redis_because: str = Field("", description=_BECAUSE)

    @classmethod
    def of(cls, page: Page, redis_because: str = "") -> Self:
        """Return events of the journal as the API's model."""
        events = [EventEntry.of(each) for each in page.events]
        return cls(events=events, next=page.next, redis_because=redis_because)


class Report(HealthStatus):
    """The whole fleet. Workers are WorkerStatus if Redis is away, because then their running jobs are not known."""

    workers: list[AdminWorker | WorkerStatus]
    waiting: int | None = Field(None, description="pending jobs, which wait for a slot; null: not known without Redis")


class WorkerCounts(BaseModel):
    """What all routers have counted of one worker, and its state at this moment."""

    running: int = Field(description="its leases: jobs that run on it")
    breaker_failures: int = Field(description="failed jobs in a row")
    ejected_until: float = Field(description="Unix time; 0: it is not ejected")
    jobs: int = Field(description="attempts that ended there")
    failures: int = Field(description="those of them that had no result")
    busy_ms: int = Field(description="how long all of them took in sum")

    @classmethod
    def of(cls, usage: WorkerUsage) -> Self:
        """Return one worker's counts from Redis as the API's model."""
        return cls(
            running=usage.leases,
            breaker_failures=usage.breaker_failures,
            ejected_until=usage.ejected_until,
            jobs=usage.stats.jobs,
            failures=usage.stats.failures,
            busy_ms=usage.stats.busy_ms,
        )

    def usage(self) -> WorkerUsage:
        """Return the counts as they came from Redis."""
        stats = WorkerStats(self.jobs, self.failures, self.busy_ms)
        return WorkerUsage(self.running, self.breaker_failures, self.ejected_until, stats)


class TenantCounts(BaseModel):
    """What all routers have counted of one tenant, and what it has at this moment."""

    running: int = Field(description="its leases: jobs that run")
    waiting: int = Field(description="its pending jobs, which wait for a slot")
    jobs: int = Field(description="its jobs that ended")
    failures: int = Field(description="those of them that had no result, by no fault of their client")
    busy_ms: int = Field(description="how long its attempts occupied workers in sum, retries included")
    queue_ms: int = Field(description="how long its jobs waited for workers in sum")
    reused: int = Field(0, description="its jobs that got the answers of identical ones")
    saved_ms: int = Field(0, description="how long the runs took that these jobs did not need, in sum")
    adopted: int = Field(0, description="its jobs that got what identical ones had left behind")

    @classmethod
    def of(cls, usage: TenantUsage) -> Self:
        """Return one tenant's counts from Redis as the API's model."""
        stats = usage.stats
        return cls(
            running=usage.running,
            waiting=usage.waiting,
            jobs=stats.jobs,
            failures=stats.failures,
            busy_ms=stats.busy_ms,
            queue_ms=stats.queue_ms,
            reused=stats.reused,
            saved_ms=stats.saved_ms,
            adopted=stats.adopted,
        )

    def usage(self) -> TenantUsage:
        """Return the counts as they came from Redis."""
        its = self.busy_ms, self.queue_ms, self.adopted, self.reused, self.saved_ms
        stats = TenantStats(self.jobs, self.failures, *its)
        return TenantUsage(self.running, self.waiting, stats)


class AdminTenant(BaseModel):
    """One tenant's rule, what is set of it at run time, which wins over config.yaml, and what it has used."""

    name: str
    listed: bool = Field(description="it has a rule of its own; false: it has the rule of `default`")
    weight: int = Field(description="its share of the busy slots")
    priority: int = Field(description="jobs of a higher priority go first")
    max_running: int | None = Field(description="how many of its jobs may run at once; null: any number")
    max_waiting: int | None = Field(description="how many of its jobs may be pending; null: only the queue's limit")
    order: str = Field(description="in which order its own jobs go: arrival or longest_first")
    labels: tuple[str, ...] = Field(description="labels that a worker needs to run its jobs")
    client_budget: str | float | None = Field(description="how long its clients wait; null: as all clients")
    reuse: TenantReuse = Field(description="for how long an answer serves identical jobs; 0 s: they share no run")
    overrides: TenantOverrides
    counts: TenantCounts


class Needs(BaseModel):
    """What some workers have and need. A slot is the right to run one job; worker-seconds are jobs times their time."""

    workers: int = Field(description="workers that may get jobs")
    slots: int | None = Field(description="how many jobs they may run at once; null: one of them has no cap")
    running: int = Field(description="jobs that run, those on draining and unhealthy workers included")
    waiting: float = Field(description="pending jobs; a part of one counts for each of several kinds that are alike")
    waiting_seconds: float = Field(description="worker-seconds that the pending jobs need")
    wanted_slots: float = Field(description="running + waiting_seconds / target_wait_s")
    wanted_workers: int | None = Field(description="so many workers of their mean cap have these slots; null: no caps")

    @classmethod
    def of(cls, found: Wanted, **more: Any) -> Self:
        """Return a decision of policy/scaling.py as the API's model."""
        return cls(
            workers=found.has.workers,
            slots=found.has.slots,
            running=found.has.running,
            waiting=round(found.waiting, 3),
            waiting_seconds=round(found.waiting_s, 3),
            wanted_slots=round(found.slots_wanted, 3),
            wanted_workers=found.workers_wanted,
            **more,
        )


class PoolNeeds(Needs):
    """The same for workers with the same labels and languages, such as those of one Deployment."""

    pool: str = Field(
        description="`labels;languages`, with commas between; empty: workers without any", examples=["gpu"]
    )


class FleetNeeds(Needs):
    """The answer of `GET /admin/scaling`."""

    target_wait_s: float = Field(
        description="within how long all pending jobs shall have begun (`scaling.target_wait`)"
    )
    pools: list[PoolNeeds]

    @classmethod
    def all_of(cls, parts: Sequence[Wanted], target_wait_s: float) -> Self:
        """Return what the whole fleet needs, and each part of it."""
        pools = [PoolNeeds.of(part, pool=part.pool) for part in parts]
        return cls.of(whole(parts), target_wait_s=target_wait_s, pools=pools)


class FleetCounts(BaseModel):
    """The answer of `GET /admin/stats`. Counts only grow, unless Redis is emptied; rates are differences of counts."""

    waiting: int = Field(description="pending jobs, which wait for a slot")
    running: int = Field(description="jobs that run")
    retries_left: float = Field(description="retries that are left in the fleet's budget")
    fleet: dict[str, int] = Field(
        description="jobs, errors, attempts, retries; le_N: jobs that took up to N seconds and more than the N "
        "before; wait_le_N: waits for a lease",
        examples=[{"jobs": 2, "attempts": 2, "le_0.05": 2}],
    )
    workers: dict[str, WorkerCounts] = Field(description="by URL")
    tenants: dict[str, TenantCounts] = Field({}, description="by name; those that had a job within a day")
    at_ms: int = Field(0, description="the moment by Redis' clock (Unix ms)")

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """Return the counts from Redis as the API's model."""
        workers = {url: WorkerCounts.of(worker) for url, worker in usage.workers.items()}
        return cls(
            waiting=usage.waiting,
            running=sum(worker.running for worker in workers.values()),
            retries_left=usage.retries_left,
            fleet=usage.fleet,
            workers=workers,
            tenants={name: TenantCounts.of(tenant) for name, tenant in usage.tenants.items()},
            at_ms=usage.at_ms,
        )

    def usage(self) -> Usage:
        """Return the counts as they came from Redis."""
        workers = {url: worker.usage() for url, worker in self.workers.items()}
        tenants = {name: tenant.usage() for name, tenant in self.tenants.items()}
        return Usage(self.waiting, self.retries_left, self.fleet, workers, tenants, self.at_ms)


class FailedTry(BaseModel):
    """An attempt of a job that brought no result."""

    worker_url: str
    cause: str = Field(description="why it brought none", examples=["returned 503: Service Unavailable"])
    took_ms: int | None = Field(description="null: not known")


class FailedJob(BaseModel):
    """A job that ended without a result, by no fault of its client or its code."""

    at: datetime = Field(description="when it ended, by Redis' clock")
    request_id: str
    tenant: str
    path: str
    language: str = Field(description="empty: the job named none")
    status: int = Field(description="what its client got")
    outcome: str = Field(examples=["all_failed"])
    took_ms: int | None = Field(description="from the whole request to the answer; null: it never became a job")
    queue_ms: int = Field(description="how long it waited for leases")
    detail: str = Field(description="what the router told its client; empty: the answer is a worker's")
    attempts: list[FailedTry]

    @classmethod
    def of(cls, failure: Failure) -> Self:
        """Return a failed job from Redis as the API's model."""
        job = failure.job
        attempts = [FailedTry(**msgspec.structs.asdict(each)) for each in job.attempts]
        return cls(**{**msgspec.structs.asdict(job), "at": failure.at, "attempts": attempts})


class FailedJobs(BaseModel):
    """The answer of `GET /admin/failures`, the newest first."""

    failures: list[FailedJob]
    redis_because: str = Field("", description=_BECAUSE)

    @classmethod
    def of(cls, failures: Iterable[Failure], redis_because: str = "") -> Self:
        """Return failed jobs from Redis as the API's model."""
        return cls(failures=[FailedJob.of(each) for each in failures], redis_because=redis_because)


class History(BaseModel):
    """The answer of `GET /admin/history`. Each list has a value for each step; null: nothing is known of it."""

    step_s: int = Field(description="how long a step is")
    begins: int = Field(description="when the first step began (Unix s), by Redis' clock")
    series: dict[str, list[float | None]] = Field(
        description="throughput, errors, retries (a second); running, waiting; p50_ms and p99_ms of jobs, queue_p50_ms "
        "and queue_p99_ms of waits for a lease",
        examples=[{"throughput": [12.5, None]}],
    )
    tenants: dict[str, list[float | None]] = Field(
        description="worker-seconds of the attempts that ended in each step, by tenant; of more than 50 tenants, the "
        "rest is `other`",
        examples=[{"run-7": [8.25, None]}],
    )
