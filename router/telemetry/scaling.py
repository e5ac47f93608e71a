"""Says how many slots the fleet needs, from its members and the counts of all routers; policy/scaling.py decides."""

import time
from collections import defaultdict
from collections.abc import Callable, Mapping

import msgspec

from router.fleet.snapshot import Snapshot
from router.fleet.stats import TenantUsage, Usage
from router.policy.scaling import Has, Kind, Waiting, Wanted, wanted

# Of a job of which nothing is known: neither its tenant nor any other has had a result.
ASSUMED_JOB_S = 1.0
# What was seen of a tenant's jobs counts half after this time: its jobs may change with each step of a training.
HALF_LIFE_S = 120.0
# Fewer recent jobs say less than all that are counted.
_FEWEST_JOBS = 5.0


class _Seen(msgspec.Struct):
    """Of one tenant: its counts at the last reading, and how many of them are recent (faded)."""

    jobs: int
    busy_ms: int
    recent_jobs: float = 0.0
    recent_ms: float = 0.0

    def take(self, jobs: int, busy_ms: int, left: float) -> None:
        """Take the counts of the next reading; of what was recent before it, the part `left` still is."""
        # Counts that have fallen began anew.
        more_jobs, more_ms = (jobs - self.jobs, busy_ms - self.busy_ms) if jobs >= self.jobs else (jobs, busy_ms)
        self.recent_jobs = self.recent_jobs * left + more_jobs
        self.recent_ms = self.recent_ms * left + max(0, more_ms)
        self.jobs, self.busy_ms = jobs, busy_ms

    def mean_s(self) -> float | None:
        """Return how long a job has workers; None if there was none."""
        if self.recent_jobs >= _FEWEST_JOBS:
            return self.recent_ms / self.recent_jobs / 1000
        return self.busy_ms / self.jobs / 1000 if self.jobs else None


class MeanTimes:
    """How long a tenant's jobs have workers, lately or, if there were few, since they are counted."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}
        self._read_at = 0.0

    def take(self, tenants: Mapping[str, TenantUsage], now: float) -> dict[str, float]:
        """Return the time (s) for each of these tenants; that of all tenants for one without a result."""
        left = 0.5 ** ((now - self._read_at) / HALF_LIFE_S)
        self._read_at = now
        seen: dict[str, _Seen] = {}
        for name, tenant in tenants.items():
            # Jobs without a result may have had no worker: those of a full queue would make the others look short.
            jobs, busy_ms = max(0, tenant.stats.jobs - tenant.stats.failures), tenant.stats.busy_ms
            seen[name] = self._seen.get(name) or _Seen(jobs, busy_ms)
            seen[name].take(jobs, busy_ms, left)
        self._seen = seen
        jobs, busy_ms = sum(each.jobs for each in seen.values()), sum(each.busy_ms for each in seen.values())
        of_all = busy_ms / jobs / 1000 if jobs else ASSUMED_JOB_S
        return {name: of_all if (mean_s := each.mean_s()) is None else mean_s for name, each in seen.items()}


class Scaling:
    """Says what the fleet needs so that pending jobs begin within `target_wait_s`."""

    def __init__(self, target_wait_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.target_wait_s = target_wait_s
        self._times = MeanTimes()
        self._clock = clock

    def wanted(self, snapshot: Snapshot, usage: Usage) -> list[Wanted]:
        """Return what each kind of workers has and needs."""
        times = self._times.take(usage.tenants, self._clock())
        waiting = [
            Waiting(pool, jobs, times[name])
            for name, tenant in usage.tenants.items()
            for pool, jobs in tenant.pools.items()
        ]
        return wanted(_kinds(snapshot, usage), waiting, self.target_wait_s)


def _kinds(snapshot: Snapshot, usage: Usage) -> dict[Kind, Has]:
    """Return the kinds of workers. All running jobs count, but only the slots of workers that may get more."""
    members: defaultdict[Kind, list[tuple[int, int | None, int]]] = defaultdict(list)
    for record in snapshot.state.records:
        worker = record.worker
        used = usage.workers.get(worker.url)
        takes_jobs = worker.url in snapshot.routable
        members[Kind(worker.labels, worker.languages)].append(
            (int(takes_jobs), worker.max_concurrency if takes_jobs else 0, used.leases if used else 0)
        )
    return {
        kind: Has(
            sum(count for count, _, _ in found),
            None if any(slots is None for _, slots, _ in found) else sum(slots or 0 for _, slots, _ in found),
            sum(running for _, _, running in found),
        )
        for kind, found in members.items()
    }
