"""Runs the sidecar: it stands by until it leads; then it checks all workers and writes their records to Redis.

The leader watches each worker in a task of its own. What the tasks see within a moment is written in one call. While
Redis is away the leader keeps its records; at the start of each term it writes all of them. historian.py writes the
history of the fleet's rates.
"""

import asyncio
import logging
import random
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from router.fleet.journal import sentences
from router.fleet.journal.model import Event, Kind
from router.fleet.leadership import Leadership, Term
from router.fleet.model import Health, Worker, WorkerRecord
from router.fleet.records import Records
from router.fleet.redis_client import RedisUnavailable
from router.fleet.sizes import Speeds
from router.fleet.tenants import Tenants
from router.fleet.worker_list import known_workers
from sidecar.alive import Alive
from sidecar.checker import Checker
from sidecar.discovery import Discovery
from sidecar.historian import Historian
from sidecar.job_probe import JobProbe
from sidecar.probe import Probe
from sidecar.rounds import forever
from sidecar.speeds import speeds
from sidecar.thresholds import judge

log = logging.getLogger(__name__)

# If the leader dies, another sidecar leads at most LEAD_TTL_S + RENEW_S = 4 s later.
RENEW_S = 1.0
LEAD_TTL_S = 3 * RENEW_S
# How often the sources of workers are read if none of them reports a change.
REREAD_S = 1.0
# Observations that come within this time are written together.
GATHER_S = 0.05
# How often the workers' speeds are estimated anew.
SPEEDS_EVERY_S = 2.0
# After a failed check, outvoted or not, the next one comes this soon: so a worker is quickly out, and quickly back.
RECHECK_S = 2.0
# So many events of one worker are kept while Redis is away.
_MOST_UNTOLD = 20
# Intervals vary by up to a tenth, so that the checks of many workers stay spread over time.
DRIFT = 0.1


class _LeadLost(Exception):
    """Another sidecar leads, or this one's term has ended."""


class Controller:
    """One sidecar process. `run` ends only by cancellation."""

    def __init__(
        self,
        name: str,
        discovery: Discovery,
        leadership: Leadership,
        records: Records,
        tenants: Tenants,
        probe: Probe,
        job_probe: JobProbe,
        speeds: Speeds,
        alive: Alive,
        historian: Historian,
    ) -> None:
        self._name = name
        self._discovery = discovery
        self._records = records
        self._tenants = tenants
        self._leadership = leadership
        self._probe = probe
        self._job_probe = job_probe
        self._speeds = speeds
        self._alive = alive
        self._historian = historian
        self._known: dict[str, WorkerRecord] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        # URLs whose records must still be written to Redis, and those that must still be removed from it.
        self._unwritten: set[str] = set()
        self._gone: set[str] = set()
        self._has_change = False
        # What has happened to workers and is not written, by URL, each with the moment (the loop's clock).
        self._untold: dict[str, list[tuple[Event, float]]] = {}
        self._unknown_drains: frozenset[str] = frozenset()
        self._has_unwritten = asyncio.Event()
        self._check_begins = asyncio.Lock()

    async def run(self) -> None:
        """Lead whenever no other sidecar does, until cancelled."""
        count = len(known_workers(self._discovery.settings))
        log.info("Sidecar %s started with %d workers", self._name, count)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._discovery.run())
            tasks.create_task(forever(self._lead_in_turn, RENEW_S))

    async def _lead_in_turn(self) -> None:
        """Lead until another sidecar does. After the lead is lost, ask again at once, because no other may want it."""
        self._alive.tell()
        await self._discovery.reread()
        while term := await self._ask_for_lead():
            log.info("Sidecar %s leads, token %d", self._name, term.token)
            try:
                await self._lead(term)
            except* _LeadLost:
                log.warning("Sidecar %s no longer leads", self._name)
            finally:
                with suppress(RedisUnavailable):
                    await self._leadership.resign(term)

    async def _ask_for_lead(self) -> Term | None:
        with suppress(RedisUnavailable):
            return await self._leadership.lead(self._name, LEAD_TTL_S)
        return None

    async def _lead(self, term: Term) -> None:
        await self._adopt()
        await self._reread()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._write(term))
                tasks.create_task(self._renew(term))
                tasks.create_task(self._follow_speeds())
                tasks.create_task(self._historian.run(term, self._known.keys))
                while True:
                    self._alive.tell()
                    self._follow_discovery(tasks)
                    if not self._known:
                        self._write_soon(is_change=False)  # without checks, this tells that a sidecar works
                    await self._publish_tenants(term)
                    await self._discovery.wait_for_change(within_s=REREAD_S)
                    await self._reread()
        finally:
            self._watches.clear()

    async def _reread(self) -> None:
        await self._discovery.reread()
        self._probe.auth.reread(self._discovery.settings)

    async def _adopt(self) -> None:
        """Take over the last leader's records, and mark all of them to be written."""
        with suppress(RedisUnavailable):
            for record in (await self._records.load()).records:
                self._known[record.worker.url] = record
            # The next checks find out anew what has become of these workers' health.
            self._untold = {url: _of_membership(told) for url, told in self._untold.items()}
        self._unwritten.update(self._known)
        self._write_soon(is_change=True)

    async def _publish_tenants(self, term: Term) -> None:
        """Make the wanted rules of tenants those in force. If Redis is away, the next round tries again.

        If `term` is over, nothing is written, and `_write` and `_renew` find that out.
        """
        rules = self._discovery.tenants()
        if rules is not None:
            with suppress(RedisUnavailable):
                await self._tenants.publish(term, rules)

    async def _renew(self, term: Term) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            # While Redis is away no sidecar can lead. The checks go on, and are written when Redis is back.
            with suppress(RedisUnavailable):
                if await self._leadership.lead(self._name, LEAD_TTL_S) != term:
                    raise _LeadLost

    def _follow_discovery(self, tasks: asyncio.TaskGroup) -> None:
        """Make records and watches match the wanted fleet: add, change and remove workers."""
        wanted = self._discovery.wanted([record.worker for record in self._known.values()])
        self._warn_of_unknown_drains(wanted.keys() | self._known.keys())
        for url in self._known.keys() - wanted.keys():
            self._forget(url)
        for url, worker in wanted.items():
            self._adapt(worker)
            if url not in self._watches:
                self._watches[url] = tasks.create_task(self._watch(url))

    def _warn_of_unknown_drains(self, known: AbstractSet[str]) -> None:
        """Warn once of each drained URL that is not in the fleet: it may be a typing error."""
        unknown = self._discovery.draining - known
        for url in sorted(unknown - self._unknown_drains):
            log.warning("%s is drained, but no such worker is in the fleet", url)
        self._unknown_drains = unknown

    def _forget(self, url: str) -> None:
        record = self._known.pop(url)
        if watch := self._watches.pop(url, None):
            watch.cancel()
        self._gone.add(url)
        self._tell(url, sentences.left(url, record.worker.source, self._name))
        self._write_soon(is_change=True)
        log.info("Worker %s has left the fleet", url)

    def _adapt(self, worker: Worker) -> None:
        record = self._known.get(worker.url)
        if record is None:
            record = WorkerRecord(worker)
            self._tell(worker.url, sentences.joined(worker.url, worker.source, self._name))
            log.info("Worker %s has joined the fleet, named by: %s", worker.url, worker.source)
        elif record.worker == worker:
            return
        self._gone.discard(worker.url)
        self._note(replace(record, worker=worker), is_change=True)

    async def _watch(self, url: str) -> None:
        """Check one worker now, then in each interval at a time of its own, and sooner while it fails."""
        checker = Checker(url, self._records, self._probe, self._job_probe)
        wait = random.random()
        while True:
            # At most one check begins in each turn of the event loop. If thousands began at once, as in a new fleet,
            # they would keep it busy for so long that checks of healthy workers timed out, and that the lead was lost.
            async with self._check_begins:
                await asyncio.sleep(0)
            seen = await checker.check(self._known[url].health, self._discovery.settings.health_check)
            before, settings = self._known[url], self._discovery.settings
            after = judge(before, seen, settings.health_check.rise, settings.health_check.fall)
            if after.health is not before.health:
                self._tell(url, sentences.checked(after, self._name))
                _log_health(after)
            self._note(after, is_change=after.health is not before.health)
            interval = settings.health_check_interval
            is_in_doubt = after.failures or seen.is_outvoted
            await asyncio.sleep(wait * (min(interval, RECHECK_S) if is_in_doubt else interval))
            wait = random.uniform(1 - DRIFT, 1 + DRIFT)

    async def _follow_speeds(self) -> None:
        """Write how fast workers are when that has changed, as far as the routers' jobs have shown it."""
        while True:
            await asyncio.sleep(SPEEDS_EVERY_S)
            with suppress(RedisUnavailable):
                seen = await self._speeds.ratios(self._known.keys())
                for url, speed in speeds(seen, {url: record.speed for url, record in self._known.items()}).items():
                    if speed != self._known[url].speed:
                        self._note(replace(self._known[url], speed=speed), is_change=True)
                        log.info("Worker %s runs jobs at %g times the fleet's speed", url, speed)

    def _note(self, record: WorkerRecord, *, is_change: bool) -> None:
        self._known[record.worker.url] = record
        self._unwritten.add(record.worker.url)
        self._write_soon(is_change=is_change)

    def _tell(self, url: str, event: Event) -> None:
        told = self._untold.setdefault(url, [])
        told.append((event, asyncio.get_running_loop().time()))
        del told[:-_MOST_UNTOLD]

    def _write_soon(self, *, is_change: bool) -> None:
        self._has_change = self._has_change or is_change
        self._has_unwritten.set()

    async def _write(self, term: Term) -> None:
        """Write unwritten records as they come, gathered over a moment, until this term ends."""
        while True:
            await self._has_unwritten.wait()
            await asyncio.sleep(GATHER_S)
            self._has_unwritten.clear()
            urls, gone, is_change = self._unwritten, self._gone, self._has_change
            self._unwritten, self._gone, self._has_change = set(), set(), False
            untold, self._untold, now = self._untold, {}, asyncio.get_running_loop().time()
            events = {url: [event.after(now - at) for event, at in told] for url, told in untold.items()}
            try:
                present = [self._known[url] for url in urls if url in self._known]
                if not await self._records.record(
                    term, datetime.now(UTC), present, gone, changed=is_change, events=events
                ):
                    raise _LeadLost
            except (RedisUnavailable, _LeadLost) as error:
                self._untold = {url: untold.get(url, []) + self._untold.get(url, []) for url in untold | self._untold}
                self._unwritten |= urls
                self._gone |= gone - self._known.keys()
                self._write_soon(is_change=is_change)
                if isinstance(error, _LeadLost):
                    raise
                await asyncio.sleep(RENEW_S)


def _of_membership(told: list[tuple[Event, float]]) -> list[tuple[Event, float]]:
    return [each for each in told if each[0].kind in (Kind.WORKER_JOINED, Kind.WORKER_LEFT)]


def _log_health(record: WorkerRecord) -> None:
    url = record.worker.url
    if record.health is Health.HEALTHY:
        log.info("Worker %s is healthy", url)
    else:
        times = f"{record.failures} failed check{'s' if record.failures > 1 else ''}"
        log.warning("Worker %s is %s after %s: %s", url, record.health.value, times, record.last_error)
