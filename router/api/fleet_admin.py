"""Decides what an operator may do to the fleet: for the admin API and for `sfr --redis`. It knows no HTTP."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from router.api.schemas import AdminWorker, Overrides
from router.api.status import worker_status
from router.config.allowlist import Allowed
from router.config.bounds import MAX_WEIGHT
from router.config.section import MAX_SECONDS, Count
from router.config.workers import NamedWorker
from router.fleet.intents import Intents, Override, Registration, Standing
from router.fleet.model import Ejection, Health, Source, WorkerRecord
from router.fleet.snapshot import FleetView

# A worker's record, its condition and its ejection, if it has one.
_Shown = tuple[WorkerRecord, Health, Ejection | None]
_PLACES: dict[str, str] = {Source.CONFIG: "config.yaml", Source.FILE: "workers_file", Source.DNS: "discover.dns"}


class UnknownWorker(Exception):
    """No worker of the fleet has this URL."""

    def __init__(self, url: str) -> None:
        super().__init__(f"{url} is not in the fleet")


class HostNotAllowed(Exception):
    """admin.allowed_workers does not allow the new worker's host."""


class NamedElsewhere(Exception):
    """The worker cannot be removed here, because config.yaml, workers_file or the DNS names it."""


class NewWorker(NamedWorker):
    """A worker to register, or to renew. Without `ttl_seconds` it stays until it is removed."""

    ttl_seconds: Annotated[float, Field(ge=0.001, le=MAX_SECONDS)] | None = None  # Redis counts milliseconds


class Changes(BaseModel):
    """A new weight, cap or both; null: the value that the worker came with. A value that is absent stays as it is."""

    model_config = ConfigDict(extra="forbid", strict=True)

    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)] | None = None
    max_concurrency: Count | None = None

    @model_validator(mode="after")
    def _changes_something(self) -> "Changes":
        if not self.model_fields_set:
            raise PydanticCustomError("changes", "expected weight or max_concurrency, or both")
        return self


class Admin:
    """Lists and changes the workers of the fleet. Each method may raise RedisUnavailable."""

    def __init__(self, intents: Intents, view: FleetView, allowed: Allowed) -> None:
        self._intents = intents
        self._view = view
        self._allowed = allowed

    async def list(self, url: str | None) -> list[AdminWorker]:
        """Return all workers, or the one at `url`, if there is one."""
        shown = await self._shown(url)
        urls = sorted(shown.keys() | await self._intents.registered()) if url is None else [url]
        standing = await self._intents.standing(urls)
        return [worker for each in urls if (worker := _admin_worker(shown.get(each), standing[each]))]

    async def one(self, url: str) -> AdminWorker:
        """Return the worker at `url`. Raises UnknownWorker."""
        found = await self.list(url)
        if not found:
            raise UnknownWorker(url)
        return found[0]

    async def add(self, new: NewWorker) -> bool:
        """Register a worker; return whether it is new or differs from before. Raises HostNotAllowed."""
        host = urlsplit(new.url).hostname or ""
        if not self._allowed.permits(host):
            detail = f"{new.url}: admin.allowed_workers in config.yaml allows no {host}"
            raise HostNotAllowed(detail)
        registration = Registration(
            *(new.url, new.weight, new.max_concurrency, new.ttl_seconds),
            *(new.labels, new.languages, new.memory_mb),
        )
        return await self._intents.register(registration)

    async def remove(self, url: str) -> None:
        """End the registration of a worker. Raises UnknownWorker, NamedElsewhere."""
        worker = await self.one(url)
        if not worker.registered and worker.source != Source.REGISTERED:
            detail = f"{url} stands in {_PLACES.get(worker.source, worker.source)}: take it out there, or drain it"
            raise NamedElsewhere(detail)
        await self._intents.remove(url)

    async def drain(self, url: str, by: str) -> None:
        """Keep new jobs from a worker; `by` says who wants that. Raises UnknownWorker."""
        await self.one(url)
        await self._intents.drain(url, by)

    async def resume(self, url: str, by: str) -> None:
        """Give a drained worker new jobs again; `by` says who wants that. Raises UnknownWorker."""
        await self.one(url)
        await self._intents.resume(url, by)

    async def change(self, url: str, changes: Changes) -> None:
        """Set a worker's weight, cap or both. Raises UnknownWorker."""
        await self.one(url)
        await self._intents.override(url, {name: getattr(changes, name) for name in changes.model_fields_set})

    async def _shown(self, only: str | None) -> dict[str, _Shown]:
        snapshot = await self._view.latest(only)
        ejected = snapshot.state.ejected
        return {
            record.worker.url: (record, condition, ejected.get(record.worker.url))
            for record, condition in snapshot.conditions
        }


def _admin_worker(shown: _Shown | None, standing: Standing) -> AdminWorker | None:
    registration = standing.registration
    if shown is None:
        if registration is None:
            return None
        # It has just been registered, and the sidecar has not added it yet.
        shown = WorkerRecord(registration.worker), Health.UNKNOWN, None
    record, condition, ejection = shown
    # The drain is the current one in Redis; all else is what this process last read.
    if record.health is not Health.UNHEALTHY:
        condition = Health.DRAINING if standing.is_draining else Health.EJECTED if ejection else record.health
    return AdminWorker(
        **worker_status(record, condition, ejection).model_dump(),
        running=standing.running,
        draining=standing.is_draining,
        registered=registration is not None,
        expires_in_seconds=registration.ttl_s if registration else None,
        overrides=_overrides(standing.override),
    )


def _overrides(override: Override) -> Overrides:
    return Overrides(weight=override.weight, max_concurrency=override.max_concurrency)
