"""Makes a job ready to ask for its lease: whose it is, how long it may take, what is sent, and where it can run."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial

import msgspec

from router.aio import Turns, start
from router.config.settings import Settings
from router.fleet.snapshot import FleetView
from router.http import headers
from router.jobs.job import Job, JobHooks, JobRun
from router.jobs.placer import Placer
from router.jobs.sooner.groups import Group, Groups
from router.jobs.sooner.sizing import Sizing
from router.jobs.tenants import Tenants
from router.policy.deadline import limits_of
from router.policy.endpoints import Endpoint
from router.policy.placement import Placement
from router.scheduling.leases import Leases
from router.scheduling.left_behind import LeftBehind
from router.scheduling.pending import NoSuchLabel, PendingJob, Quarantined, TooLarge
from router.upstream.pool import Request

log = logging.getLogger(__name__)


class Hashing:
    """Hashes large bodies when a name or key is asked for, in pieces: other jobs have their turns meanwhile.

    `tasks` are those that are under way.
    """

    def __init__(self, turns: Turns, tasks: set[asyncio.Task[None]]) -> None:
        self._turns = turns
        self._tasks = tasks

    def then(self, job: Job, step: Callable[[], None]) -> None:
        """Call `step` once the job's name and key cost nothing: at once, unless its body is yet to be hashed."""
        if job.lacks_hash:
            start(self._tasks, self._hash(job, step))
        else:
            step()

    async def _hash(self, job: Job, step: Callable[[], None]) -> None:
        try:
            await self._turns.run(job.hash_body())
        except Exception:
            log.exception("A body could not be hashed")  # and `step` meets with the same
        step()


class Preparer:
    """Prepares the jobs of one process. `hooks_of`, if given, makes the hooks of each."""

    def __init__(
        self,
        settings: Settings,
        endpoints: Mapping[str, Endpoint],
        view: FleetView,
        tenants: Tenants,
        groups: Groups,
        left_behind: LeftBehind,
        sizing: Sizing,
        turns: Turns,
        hooks_of: Callable[[Job], JobHooks] | None,
    ) -> None:
        self._endpoints = endpoints
        self._view = view
        self._tenants = tenants
        self._placer = Placer(tenants, settings.default_job_memory_mb)
        self._without_workers_s = settings.queue.without_workers
        self._groups = groups
        self._left_behind = left_behind
        self._sizing = sizing
        self._turns = turns
        self._hooks_of = hooks_of
        limits = partial(limits_of, grace_s=settings.job_grace, timeout_s=settings.timeout)
        self._limits = lru_cache(maxsize=256)(limits)  # most jobs have the same

    async def scanned(self, job: Job) -> Job:
        """Return a large job with its scan; other jobs have their turns meanwhile."""
        needs = {"is_sized": self._sizing.needs_kind(job), "is_hashed": self._needs_hash(job)}
        scan = await self._turns.run(job.scan_body(self._endpoints[job.path].reader, **needs))
        return msgspec.structs.replace(job, scan=scan)

    def _needs_hash(self, job: Job) -> bool:
        """Whether a job that is well is asked for its name or key, too: to see whether it is known."""
        snapshot = self._view.snapshot
        is_keyed = self._left_behind.are_keyed and self._left_behind.is_on
        return is_keyed or bool(snapshot.state.quarantined) or snapshot.reuses_answers or bool(job.options.reuse_s)

    def prepare(self, run: JobRun, skip: Callable[[JobRun], None]) -> None:
        """Fill in what the job needs; `skip` is called when its group fails. Raises NoRoom."""
        job = run.job
        named = job.tenant
        if named:
            job = self._tenants.settle(run)
        endpoint = self._endpoints[job.path]
        snapshot, tenants = self._view.snapshot, self._tenants
        fleet = snapshot.state
        budget = tenants.budget_of(job.tenant) if fleet.tenants else tenants.client_budget
        longest_s = endpoint.reader.longest_s(run.text)
        run.limits = limits = self._limits(longest_s, job.client_s, endpoint.timeout_s, budget)
        run.ends_at += limits.ceiling_s
        run.hooks = hooks = None if self._hooks_of is None else self._hooks_of(job)
        lines = job.lines if hooks is None else hooks.lines
        block = headers.for_worker(lines, job.body, job.request_id)
        run.request = Request(job.method, job.target, block, job.body)
        if fleet.quarantined and job.name in fleet.quarantined:
            raise Quarantined
        if snapshot.places_jobs or job.labels:
            run.placement = self._placer.place(run, endpoint.needs, snapshot)
        if job.options.stops_on_failure:
            run.group = Group.of(job.options, named)
            self._groups.join(run.group, run, partial(skip, run))
        if self._left_behind.are_keyed and self._left_behind.is_on:
            run.wish_for(key=run.job.key)

    def place_anew(self, runs: Iterable[JobRun], leases: Leases) -> None:
        """Let jobs run where they can now: what workers or tenants have has changed.

        Those that wait ask again, with their tickets. For those that run, it counts if they are tried again. A worker
        that has left may be back soon, so a pending job that no worker can run is refused a while later.
        """
        moved = []
        for run in runs:
            placement, reason = self._found(run)
            if placement != run.placement:
                run.placement = placement
                if run.pending is not None:
                    moved.append((run.pending, placement))
            if reason is not None and run.pending is not None:
                loop = asyncio.get_running_loop()
                loop.call_later(self._without_workers_s, self._refuse_in_vain, run, run.pending, leases)
        leases.move(moved)

    def _refuse_in_vain(self, run: JobRun, pending: PendingJob, leases: Leases) -> None:
        if run.pending is pending and (reason := self._found(run)[1]) is not None:
            leases.refuse(pending, reason)

    def _found(self, run: JobRun) -> tuple[Placement, NoSuchLabel | TooLarge | None]:
        return self._placer.find(run, self._endpoints[run.job.path].needs, self._view.snapshot)
