"""Decides where a job can run: in which pool of workers, and with how much memory. The latest snapshot counts.

What workers and tenants have may change while jobs wait. Then these are placed anew, so that none runs where a new job
could not.
"""

from router.config.bounds import MAX_MEMORY_MB
from router.fleet.snapshot import Snapshot
from router.jobs.job import JobRun
from router.jobs.tenants import Tenants
from router.policy.needs import NeedsReader
from router.policy.placement import Placement, pool_name
from router.scheduling.pending import NoSuchLabel, TooLarge


class Placer:
    """Places the jobs of one process. A job without a limit of its own counts for `default_memory_mb`."""

    def __init__(self, tenants: Tenants, default_memory_mb: int) -> None:
        self._tenants = tenants
        self._default_memory_mb = default_memory_mb

    def place(self, run: JobRun, reader: NeedsReader, snapshot: Snapshot) -> Placement:
        """Return where a job can run. Raises NoSuchLabel or TooLarge if no worker of the fleet can run it."""
        placement, reason = self.find(run, reader, snapshot)
        if reason is not None:
            raise reason
        return placement

    def find(
        self, run: JobRun, reader: NeedsReader, snapshot: Snapshot
    ) -> tuple[Placement, NoSuchLabel | TooLarge | None]:
        """Return where a job can run, and why no worker of the fleet can run it; None: one can.

        It needs the labels of its tenant and its own. Its language and memory count only where a worker of the fleet
        lists languages, or has its memory counted.
        """
        pools, tenant = snapshot.pools, run.placement.tenant
        rule = self._tenants.rule_of(tenant)
        labels = {*run.job.labels, *(rule.labels if rule is not None else ())}
        needs = reader.needs(run.text) if pools.lists_languages or pools.counts_memory else None
        language = needs.language if needs is not None and pools.lists_languages else ""
        name = pool_name(labels, language)
        pool, reason = pools.pool(name), None
        if unknown := sorted(labels - pools.labels):
            reason = NoSuchLabel(unknown[0])
        elif pool.is_empty:
            reason = NoSuchLabel(", ".join(sorted(labels)), language)
        if needs is None or not pools.counts_memory:
            return Placement(tenant, name), reason
        memory_mb = self._default_memory_mb if needs.memory_mb is None else needs.memory_mb
        # No worker counts more. A number without a bound would be another one in Lua.
        placement = Placement(tenant, name, min(memory_mb, MAX_MEMORY_MB))
        if reason is None and pool.largest_mb is not None and memory_mb > pool.largest_mb:
            return placement, TooLarge(memory_mb, pool.largest_mb)
        return placement, reason
