"""Makes a job ready to ask for its lease: whose it is, how long it may take, what is sent, and where it can run."""

from collections.abc import Callable, Mapping
from functools import lru_cache, partial

import msgspec

from router.config.settings import Settings
from router.fleet.snapshot import FleetView
from router.http import headers
from router.jobs.job import Job, JobHooks, JobRun
from router.jobs.placer import Placer
from router.jobs.sooner.groups import Group, Groups
from router.jobs.tenants import Tenants
from router.policy.deadline import limits_of
from router.policy.endpoints import Endpoint
from router.scheduling.left_behind import LeftBehind
from router.scheduling.messages import NO_WISH
from router.scheduling.pending import Quarantined
from router.upstream.pool import Request


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
        hooks_of: Callable[[Job], JobHooks] | None,
    ) -> None:
        self._endpoints = endpoints
        self._view = view
        self._tenants = tenants
        self._placer = Placer(tenants, settings.default_job_memory_mb)
        self._groups = groups
        self._left_behind = left_behind
        self._hooks_of = hooks_of
        limits = partial(limits_of, grace_s=settings.job_grace, timeout_s=settings.timeout)
        self._limits = lru_cache(maxsize=256)(limits)  # most jobs have the same

    def prepare(self, run: JobRun, skip: Callable[[JobRun], None]) -> None:
        """Fill in what the job needs; `skip` is called when its group fails. Raises NoRoom."""
        job = run.job
        named = job.tenant
        if named:
            job = self._tenants.settle(run)
        endpoint = self._endpoints[job.path]
        text: bytes = job.body if job.scan is None else job.scan.excerpt  # type: ignore[assignment]  # no view is small
        snapshot, tenants = self._view.snapshot, self._tenants
        fleet = snapshot.state
        budget = tenants.budget_of(job.tenant) if fleet.tenants else tenants.client_budget
        longest_s = endpoint.reader.longest_s(text)
        run.limits = limits = self._limits(longest_s, job.client_s, endpoint.timeout_s, budget)
        run.ends_at += limits.ceiling_s
        run.hooks = hooks = None if self._hooks_of is None else self._hooks_of(job)
        lines = job.lines if hooks is None else hooks.lines
        block = headers.for_worker(lines, job.body, job.request_id)
        run.request = Request(job.method, job.target, block, job.body)
        if fleet.quarantined and job.name in fleet.quarantined:
            raise Quarantined
        if snapshot.places_jobs or job.labels:
            run.placement = self._placer.place(run, text, endpoint.needs, snapshot)
        if job.options.stops_on_failure:
            run.group = Group.of(job.options, named)
            self._groups.join(run.group, run, partial(skip, run))
        if self._left_behind.are_keyed and self._left_behind.is_on:
            run.wish = msgspec.structs.replace(run.wish or NO_WISH, key=run.job.key)
