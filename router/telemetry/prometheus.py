"""Makes the page of `GET /metrics` for Prometheus.

All processes of one gunicorn share their counts (multiprocess.py); without gunicorn, each process shows only its own.
The fleet's values are read when the page is asked for, and every router shows the same. Labels are bounded: endpoints
by config.yaml, workers by the fleet, tenants by MOST_TENANTS.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, values
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from router.fleet.journal.model import KINDS
from router.fleet.model import Health
from router.fleet.snapshot import Snapshot
from router.fleet.stats import BOUNDS_S, TenantStats, TenantUsage, Usage
from router.policy.scaling import Wanted
from router.policy.tenants import OTHER
from router.policy.verdict import Kind
from router.telemetry.multiprocess import Family, Sample, SharedCounts
from router.telemetry.recorder import Counts, Timing

# So many tenants have series of their own; the rest share OTHER.
MOST_TENANTS = 100

disable_created_metrics()  # type: ignore[no-untyped-call]
# If PROMETHEUS_MULTIPROC_DIR is set, prometheus_client would map files into memory: a full disk kills such a process.
values.ValueClass = values.MutexValue


class BulkHistogram(Histogram):
    """A histogram that takes many times at once; calling `observe` for each job would cost as much as a lease."""

    def add(self, timing: Timing) -> None:
        """Count all times of `timing`, which has this histogram's bounds."""
        for bucket, count in zip(self._buckets, timing.counts, strict=True):
            if count:
                bucket.inc(count)
        self._sum.inc(timing.total_s)


class ProcessState(NamedTuple):
    """How many jobs of this process run and wait; `is_alone`: the process gives leases without Redis."""

    running: int
    waiting: int
    is_alone: bool


class Metrics:
    """This process' counts, and the page that shows the counts of all processes and the fleet."""

    def __init__(self, shared: SharedCounts) -> None:
        self._shared = shared
        self._own = own = CollectorRegistry()

        def counter(name: str, means: str, *labels: str) -> Counter:
            return Counter(f"sfr_{name}", means, labels, registry=own)

        def histogram(name: str, means: str, *labels: str) -> BulkHistogram:
            return BulkHistogram(f"sfr_{name}_seconds", means, labels, registry=own, buckets=BOUNDS_S)

        def gauge(name: str, means: str) -> Gauge:
            return Gauge(f"sfr_{name}", means, registry=own)

        self._requests = counter("requests", "Requests for jobs, by their answers.", "endpoint", "status", "verdict")
        self._durations = histogram("request_duration", "Jobs: from the whole request to the answer.", "endpoint")
        self._waits = histogram("queue_wait", "Waits for a lease, Redis' answer included.")
        self._worker_times = histogram("worker_time", "Attempts: from the lease to the worker's answer.")
        self._attempts = counter("attempts", "Attempts, by what they brought.", "verdict")
        self._retries = counter("retries", "Retries, by what the attempt before had brought.", "cause")
        self._unfunded = counter("retries_refused", "Retries that the fleet's budget did not allow.")
        self._hedges = counter("hedges", "Second runs of jobs, beside the first.")
        self._hedges_counted = counter("hedges_counted", "Jobs that got their answers from second runs.")
        self._cut_answers = counter("answers_cut", "Large answers that broke off when their clients had a part.")
        self._adopted = counter("jobs_adopted", "Jobs that got what identical ones had left behind.")
        self._redis = histogram("redis_duration", "Calls of the scheduler that Redis answered.")
        self._redis_failures = counter("redis_failures", "Calls of the scheduler that it did not.")
        self._processes = gauge("processes", "Router processes.")
        self._alone = gauge("processes_degraded", "Router processes that give leases without Redis.")
        self._running = gauge("jobs_running", "Leases that router processes hold.")
        self._waiting = gauge("jobs_waiting", "Jobs that wait for a lease.")
        for kind in Kind:  # shown from 0 on, so that Prometheus sees the first one as an increase
            self._attempts.labels(kind)
            if kind is not Kind.RESULT:
                self._retries.labels(kind)

    def add(self, counts: Counts) -> None:
        """Add the recorder's counts."""
        for key, timing in counts.jobs.items():
            self._requests.labels(*key).inc(timing.count)
            self._durations.labels(key[0]).add(timing)
        for key, count in counts.refusals.items():
            self._requests.labels(*key).inc(count)
        for kind, timing in counts.attempts.items():
            self._attempts.labels(kind).inc(timing.count)
            self._worker_times.add(timing)
        for kind, count in counts.retries.items():
            self._retries.labels(kind).inc(count)
        self._waits.add(counts.waits)
        self._redis.add(counts.redis)
        self._unfunded.inc(counts.unfunded)
        self._hedges.inc(counts.hedges)
        self._hedges_counted.inc(counts.hedges_counted)
        self._cut_answers.inc(counts.cut_answers)
        self._adopted.inc(counts.adopted)
        self._redis_failures.inc(counts.redis_failures)

    def set_state(self, state: ProcessState) -> None:
        """Show this process' state of this moment."""
        self._processes.set(1)
        self._alone.set(state.is_alone)
        self._running.set(state.running)
        self._waiting.set(state.waiting)

    def share(self) -> None:
        """Show the other processes this one's counts."""
        self._shared.put(self._collected())

    def processes(self) -> tuple[int, int]:
        """Return how many processes this router has, and how many of them give leases without Redis."""
        found = {family.name: family.samples for family in self._shared.whole(self._collected())}
        here, alone = (
            sum(int(each.value) for each in found[name]) for name in ("sfr_processes", "sfr_processes_degraded")
        )
        return here, alone

    def page(self, snapshot: Snapshot, usage: Usage | None, wanted: Sequence[Wanted], accept: str) -> tuple[bytes, str]:
        """Return the page for the request's Accept header, and its content type.

        `usage` is None if Redis is away; then the page lacks the values that only Redis knows. `wanted` is what each
        kind of workers needs.
        """
        encode, content_type = choose_encoder(accept)
        own = self._collected()
        self._shared.put(own)  # so that no other process' next page shows less
        return encode(_Both(self._shared.whole(own), _Fleet(snapshot, usage, wanted))), content_type

    def _collected(self) -> list[Family]:
        return [
            Family(each.name, each.type, each.documentation, [Sample(*sample[:3]) for sample in each.samples])
            for each in self._own.collect()
        ]


class _Both(Collector):
    def __init__(self, counted: Sequence[Family], fleet: "_Fleet") -> None:
        self._counted = counted
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        for family in self._counted:
            metric = Metric(family.name, family.means, family.kind)
            for sample in family.samples:
                metric.add_sample(sample.name, sample.labels, sample.value)
            yield metric
        yield from self._fleet.collect()


class _Fleet(Collector):
    """The values of the fleet, which every router shows."""

    def __init__(self, snapshot: Snapshot, usage: Usage | None, wanted: Sequence[Wanted]) -> None:
        self._snapshot = snapshot
        self._usage = usage
        self._wanted = wanted

    def collect(self) -> Iterator[Metric]:
        yield from self._membership()
        if self._usage is not None:
            yield from self._usage_of(self._usage)
            yield from _by_tenant(most_used(self._usage.tenants, MOST_TENANTS))
            yield from _by_pool(self._wanted)

    def _membership(self) -> Iterator[Metric]:
        state, records = self._snapshot.state, self._snapshot.state.records
        if state.written_at is not None:
            age_s = max(0.0, (datetime.now(UTC) - state.written_at).total_seconds())
            yield GaugeMetricFamily("sfr_sidecar_age_seconds", "Since a sidecar last wrote what it saw.", age_s)
        yield GaugeMetricFamily("sfr_workers_routable", "Workers that may get jobs.", len(self._snapshot.routable))
        yield _by_worker(
            "up",
            "1: its health checks find it healthy.",
            ((record.worker.url, record.health is Health.HEALTHY) for record in records),
        )
        yield _by_worker(
            "draining",
            "1: an operator keeps new jobs from it.",
            ((record.worker.url, record.worker.url in state.draining) for record in records),
        )
        yield _by_worker(
            "ejected",
            "1: the breaker keeps new jobs from it.",
            ((record.worker.url, record.worker.url in state.ejected) for record in records),
        )
        caps = ((record.worker.url, record.worker.max_concurrency) for record in records)
        yield _by_worker(
            "cap", "Jobs that may run on it at once; absent: any number.", ((url, cap) for url, cap in caps if cap)
        )
        yield _by_worker(
            "speed",
            "How fast it runs jobs; 1: as the fleet's median, or not known.",
            ((record.worker.url, record.speed) for record in records),
        )

    def _usage_of(self, usage: Usage) -> Iterator[Metric]:
        workers = usage.workers
        yield GaugeMetricFamily("sfr_queue_length", "Jobs of all routers that wait for room.", usage.waiting)
        yield GaugeMetricFamily("sfr_retry_budget", "Retries that all routers may make at once.", usage.retries_left)
        yield _by_worker("leases", "Leases that run on it.", ((url, worker.leases) for url, worker in workers.items()))
        jobs = CounterMetricFamily("sfr_worker_jobs", "Attempts that ended there.", labels=("worker",))
        failures = CounterMetricFamily("sfr_worker_failures", "Attempts without a result.", labels=("worker",))
        seconds = CounterMetricFamily("sfr_worker_busy_seconds", "How long all attempts took.", labels=("worker",))
        for url, worker in workers.items():
            jobs.add_metric((url,), worker.stats.jobs)
            failures.add_metric((url,), worker.stats.failures)
            seconds.add_metric((url,), worker.stats.busy_ms / 1000)
        events = CounterMetricFamily("sfr_events", "What has happened in the fleet.", labels=("kind",))
        for kind in sorted(KINDS):
            events.add_metric((kind,), usage.events.get(kind, 0))
        yield from (jobs, failures, seconds, events)


def _by_tenant(tenants: Mapping[str, TenantUsage]) -> Iterator[Metric]:
    running = GaugeMetricFamily("sfr_tenant_running", "Leases that it has.", labels=("tenant",))
    waiting = GaugeMetricFamily("sfr_tenant_waiting", "Its jobs that wait for room.", labels=("tenant",))
    jobs = CounterMetricFamily("sfr_tenant_jobs", "Its jobs that ended.", labels=("tenant",))
    failures = CounterMetricFamily("sfr_tenant_failures", "Its jobs without a result.", labels=("tenant",))
    busy = CounterMetricFamily("sfr_tenant_busy_seconds", "How long all its attempts took.", labels=("tenant",))
    queue = CounterMetricFamily("sfr_tenant_queue_seconds", "How long its jobs waited for leases.", labels=("tenant",))
    reused = CounterMetricFamily("sfr_tenant_reused", "Its jobs with identical ones' answers.", labels=("tenant",))
    saved = CounterMetricFamily("sfr_tenant_saved_seconds", "How long their runs took.", labels=("tenant",))
    adopted = CounterMetricFamily("sfr_tenant_adopted", "Its jobs that were adopted.", labels=("tenant",))
    for name, tenant in tenants.items():
        running.add_metric((name,), tenant.running)
        waiting.add_metric((name,), tenant.waiting)
        jobs.add_metric((name,), tenant.stats.jobs)
        failures.add_metric((name,), tenant.stats.failures)
        busy.add_metric((name,), tenant.stats.busy_ms / 1000)
        queue.add_metric((name,), tenant.stats.queue_ms / 1000)
        adopted.add_metric((name,), tenant.stats.adopted)
        reused.add_metric((name,), tenant.stats.reused)
        saved.add_metric((name,), tenant.stats.saved_ms / 1000)
    yield from (running, waiting, jobs, failures, busy, queue, adopted, reused, saved)


def _by_pool(parts: Sequence[Wanted]) -> Iterator[Metric]:
    """Yield what each kind of workers has and needs; sums over all pools are the fleet's."""
    yield _by_pool_of("wanted_slots", "Slots that it needs.", [(each.pool, each.slots_wanted) for each in parts])
    slots = [(each.pool, each.has.slots) for each in parts if each.has.slots is not None]
    yield _by_pool_of("slots", "Slots of its workers that may get jobs; absent: one has no cap.", slots)
    yield _by_pool_of("running", "Jobs that run on its workers.", [(each.pool, each.has.running) for each in parts])
    means = "Worker-seconds that its pending jobs need."
    yield _by_pool_of("waiting_seconds", means, [(each.pool, each.waiting_s) for each in parts])


def _by_pool_of(name: str, means: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"sfr_scaling_{name}", means, labels=("pool",))
    for pool, value in values:
        family.add_metric((pool,), value)
    return family


def most_used(tenants: Mapping[str, TenantUsage], most: int) -> dict[str, TenantUsage]:
    """Return the `most` tenants that have used most worker-seconds, and the others together as OTHER.

    Every router chooses the same ones. A tenant's rank changes only when its use has doubled, because counts that move
    to or from OTHER look to Prometheus like an increase.
    """
    named = sorted(tenants.keys() - {OTHER}, key=lambda name: (-tenants[name].stats.busy_ms.bit_length(), name))
    own = {name: tenants[name] for name in named[:most]}
    others = [tenant for name, tenant in tenants.items() if name not in own]
    return {**own, OTHER: _together(others)} if others else own


def _together(tenants: Sequence[TenantUsage]) -> TenantUsage:
    stats = TenantStats()
    for tenant in tenants:
        stats.add(tenant.stats)
    return TenantUsage(sum(each.running for each in tenants), sum(each.waiting for each in tenants), stats)


def _by_worker(name: str, means: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"sfr_worker_{name}", means, labels=("worker",))
    for url, value in values:
        family.add_metric((url,), value)
    return family
