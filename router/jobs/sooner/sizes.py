"""How long jobs take on a worker of normal speed: as their clients say, or as earlier jobs of the same key took.

This process keeps the sizes of the keys that it met last, and asks Redis for others. What it learns it tells Redis once
a second. While Redis is away, it goes by what it knows itself.
"""

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TypeVar

import msgspec

from router.fleet.model import Ratios
from router.fleet.redis_client import RedisUnavailable
from router.fleet.sizes import ENTRIES_A_CALL, FleetSizes, Lessons, Mean
from router.fleet.snapshot import FleetView
from router.fleet.stats import oldest
from router.jobs.job import Job
from router.policy.sizes import Recent, kind_of, median_key, merged, size_key
from router.policy.tenants import DEFAULT

TELL_EVERY_S = 1.0
# Other processes learn, too. What they know of a key counts here after this time, sooner if nothing was known of it.
FRESH_S, UNKNOWN_FRESH_S = 30.0, 5.0
# How many keys this process knows at a time, and how many it keeps for Redis while that is away.
MAX_KNOWN = 10_000
MAX_UNTOLD = 10_000
MAX_TENANTS_KNOWN = 100
# All jobs of a tenant of which nothing is known are alike.
NOTHING_KNOWN_MS = 1000
# One attempt says at most that its worker is so many times faster or slower: jobs of one key may differ by more.
_MOST_RATIO = math.log(10)

_Value = TypeVar("_Value")


class _Size(msgspec.Struct):
    """What this process knows of a key: its mean, if any, and until when that need not be looked up again."""

    mean_ms: float = 0.0
    count: float = 0.0
    fresh_until: float = 0.0


class _Untold:
    """What Redis has not been told so far: sizes by key (mean and number), ratios by worker, and tenants with news."""

    def __init__(self) -> None:
        self.sizes: dict[str, tuple[float, float]] = {}
        self.speeds: dict[str, Ratios] = {}
        self.tenants: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self.sizes or self.speeds)

    def add(self, sizes: Mapping[str, tuple[float, float]], speeds: Mapping[str, Ratios]) -> None:
        for key, size in sizes.items():
            self.add_size(key, *size)
        for url, ratios in speeds.items():
            self.add_ratios(url, ratios)

    def add_size(self, key: str, size_ms: float, times: float = 1) -> None:
        mean_ms, count = self.sizes.get(key, (0.0, 0))
        if count or len(self.sizes) < MAX_UNTOLD:
            total = count + times  # not bounded: Redis bounds the weight of what it knows
            self.sizes[key] = mean_ms + (size_ms - mean_ms) * times / total, total

    def add_ratios(self, url: str, ratios: Ratios) -> None:
        known = self.speeds.get(url)
        if known is not None:
            known.add(ratios)
        elif len(self.speeds) < MAX_UNTOLD:
            self.speeds[url] = ratios


class Sizes:
    """The sizes of jobs, as far as this process knows them. `run` tells Redis what is learned."""

    def __init__(self, view: FleetView, fleet: FleetSizes, clock: Callable[[], float] = time.monotonic) -> None:
        self._view = view
        self._fleet = fleet
        self._clock = clock
        self._known: OrderedDict[str, _Size] = OrderedDict()  # the one used last at the end
        self._recent: OrderedDict[str, Recent] = OrderedDict()  # by tenant
        self._untold = _Untold()
        self._wanted: dict[str, None] = {}
        self._asking: asyncio.Task[None] | None = None

    def expected_ms(self, job: Job) -> int | None:
        """Return how long the job is expected to take, at least 1; None if that must be looked up first.

        A job of which nothing is known counts as its tenant's median.
        """
        if job.options.expected_ms:
            return job.options.expected_ms
        key = key_of(job)
        if not key:
            return self._median_ms(job.tenant or DEFAULT)
        known = self._known.get(key)
        if known is None or known.fresh_until < self._clock():
            return None
        self._known.move_to_end(key)
        return _whole(known.mean_ms) if known.count else self._median_ms(job.tenant or DEFAULT)

    def known_ms(self, job: Job) -> int:
        """Return what this process knows, without a look-up; after one it is what `expected_ms` returns."""
        return self.found_ms(job) or self._median_ms(job.tenant or DEFAULT)

    def found_ms(self, job: Job) -> int:
        """Return the same, but 0 for a job of which nothing is known."""
        if job.options.expected_ms:
            return job.options.expected_ms
        known = self._known.get(key_of(job))
        return _whole(known.mean_ms) if known is not None and known.count else 0

    async def look_up(self, jobs: Sequence[Job]) -> None:
        """Fetch what `expected_ms` does not know of these jobs, in one round trip.

        All that is asked for in one turn of the event loop is fetched together.
        """
        now = self._clock()
        unsaid = [job for job in jobs if not job.options.expected_ms]
        keys = [*map(key_of, unsaid), *{median_key(job.tenant or DEFAULT) for job in unsaid}]
        missing = [key for key in keys if key and not self._is_fresh(key, now)]
        if not missing:
            return
        self._wanted.update(dict.fromkeys(missing))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask())
        await asyncio.shield(self._asking)

    def learn(self, job: Job, worker_url: str, took_ms: int, *, is_cut: bool = False) -> None:
        """Take in that an attempt of the job, which brought a result, took so long.

        `is_cut`: the worker cut the job off at its time limit. Then the job takes at least so long, and nothing is
        learned of the worker's speed.
        """
        key = key_of(job)
        if not key:
            return
        took_ms = took_ms or 1
        size_ms = took_ms * self._view.snapshot.speed_of(worker_url)
        known = self._entry(key)
        if is_cut:
            size_ms = max(size_ms, known.mean_ms)
        elif known.count:
            ratio = math.log(took_ms / known.mean_ms)
            if not -_MOST_RATIO < ratio < _MOST_RATIO:
                ratio = math.copysign(_MOST_RATIO, ratio)
            self._untold.add_ratios(worker_url, Ratios(ratio, ratio * ratio, 1))
        known.mean_ms, known.count = merged(known.mean_ms, known.count, size_ms, 1)
        self._untold.add_size(key, size_ms)
        tenant = job.tenant or DEFAULT
        _used(self._recent, tenant, Recent, MAX_TENANTS_KNOWN).append(size_ms)
        self._untold.tenants[tenant] = self._untold.tenants.get(tenant, 0) + 1

    async def run(self) -> None:
        """Tell Redis once a second what was learned, until cancelled."""
        while True:
            await self.tell()
            await asyncio.sleep(TELL_EVERY_S)

    async def tell(self) -> None:
        """Tell Redis all that was learned until now; what it does not hear is kept."""
        self._sum_up()
        untold, self._untold = self._untold, _Untold()
        while untold:
            sizes, speeds = oldest(untold.sizes, ENTRIES_A_CALL), oldest(untold.speeds, ENTRIES_A_CALL)
            lessons = Lessons(
                [(key, *size) for key, size in sizes.items()],
                [(url, ratios.total, ratios.squares, ratios.count) for url, ratios in speeds.items()],
            )
            try:
                means = await self._fleet.learn(lessons)
            except RedisUnavailable:
                self._untold.add(sizes, speeds)
                self._untold.add(untold.sizes, untold.speeds)
                return
            self._keep(sizes, means)

    def _sum_up(self) -> None:
        """Make each tenant's latest sizes one lesson: their median."""
        tenants, self._untold.tenants = self._untold.tenants, {}
        for tenant, count in tenants.items():
            if recent := self._recent.get(tenant):
                self._untold.add_size(median_key(tenant), recent.median(), count)

    async def _ask(self) -> None:
        await asyncio.sleep(0)  # until the end of this turn others may want keys, too
        keys, self._wanted, self._asking = list(self._wanted), {}, None
        for start in range(0, len(keys), ENTRIES_A_CALL):
            part = keys[start : start + ENTRIES_A_CALL]
            means: Sequence[Mean | None] = [None] * len(part)
            if self._fleet.available:
                with suppress(RedisUnavailable):
                    means = await self._fleet.means(part)
            self._keep(part, means)

    def _keep(self, keys: Iterable[str], means: Iterable[Mean | None]) -> None:
        """Take over what Redis knows of these keys. Without Redis, what this process knows counts as fresh, too."""
        now = self._clock()
        for key, mean in zip(keys, means, strict=True):
            entry = self._entry(key)
            if mean is not None:
                entry.mean_ms, entry.count = mean.ms, mean.count
            entry.fresh_until = now + (FRESH_S if entry.count else UNKNOWN_FRESH_S)

    def _is_fresh(self, key: str, now: float) -> bool:
        known = self._known.get(key)
        return known is not None and known.fresh_until >= now

    def _entry(self, key: str) -> _Size:
        """Return what is known of a key."""
        return _used(self._known, key, _Size, MAX_KNOWN)

    def _median_ms(self, tenant: str) -> int:
        """Return the median of the tenant's sizes over the fleet; else that of this process."""
        known = self._known.get(median_key(tenant))
        if known is not None and known.count:
            return _whole(known.mean_ms)
        recent = self._recent.get(tenant)
        return _whole(recent.median()) if recent else NOTHING_KNOWN_MS


def key_of(job: Job) -> str:
    """Return the key that the job shares with those alike; "" if nothing can be said of its body."""
    if job.options.size_key:
        return size_key(job.tenant or DEFAULT, job.options.size_key.encode("ascii"))
    if job.scan is not None:
        kind = job.scan.kind
    elif job.is_large:  # without its scan
        kind = b""
    else:
        kind = kind_of(job.path, job.body)
    return size_key(job.tenant or DEFAULT, kind) if kind else ""


def _whole(size_ms: float) -> int:
    """Return a size in whole milliseconds, at least 1."""
    return int(size_ms) or 1


def _used(entries: OrderedDict[str, _Value], key: str, make: Callable[[], _Value], most: int) -> _Value:
    """Return the entry of a key, as the one used last; of more than `most`, the one used longest ago goes."""
    entry = entries.get(key)
    if entry is None:
        entry = entries[key] = make()
        if len(entries) > most:
            entries.popitem(last=False)
    else:
        entries.move_to_end(key)
    return entry
