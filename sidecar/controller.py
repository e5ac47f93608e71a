"""The sidecar's life: stand by, lead, check, write; and stand by again when the lead is lost.

The leader watches each worker in a task of its own and writes what all of them saw, together, a moment later. What it
knows it keeps when Redis goes away, and writes in full at the start of each term.
"""

import asyncio
import logging
import random
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

from router.fleet.leadership import Leadership, Term
from router.fleet.model import Health, Worker, WorkerRecord
from router.fleet.records import Records
from router.fleet.redis_client import RedisUnavailable
from router.fleet.worker_list import known_workers
from sidecar.checker import Checker
from sidecar.discovery import Discovery
from sidecar.job_probe import JobProbe
from sidecar.probe import Probe
from sidecar.rounds import for_ever
from sidecar.thresholds import judge

log = logging.getLogger(__name__)

# Another sidecar leads at most LEAD_TTL_S + RENEW_S = 4 s after this one died.
RENEW_S = 1.0
LEAD_TTL_S = 3 * RENEW_S
# How often the sources of members are looked at, where nothing tells of a change.
REREAD_S = 1.0
# Results that come within this time are written together.
GATHER_S = 0.05
# A worker whose last check failed, outvoted or not, is asked again this soon: it is out soon, and back soon.
RECHECK_S = 2.0
# Checks of one worker drift by up to a tenth, so that those of many stay spread over the interval.
DRIFT = 0.1


class _LeadLost(Exception):
    """Another sidecar leads, or this one's term has ended."""


class Controller:
    """One sidecar process. `run` ends only by cancellation."""

    def __init__(
        self, name: str, membership: Discovery, leadership: Leadership, records: Records, probe: Probe, deep: JobProbe
    ) -> None:
        self._name = name
        self._membership = membership
        self._fleet = records
        self._leadership = leadership
        self._probe = probe
        self._deep = deep
        self._records: dict[str, WorkerRecord] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        # What Redis does not hold yet.
        self._unwritten: set[str] = set()
        self._gone: set[str] = set()
        self._is_change = False
        self._strangers: frozenset[str] = frozenset()
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Lead whenever nobody else does, until cancelled."""
        count = len(known_workers(self._membership.settings))
        log.info("Sidecar %s started with %d workers", self._name, count)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._membership.run())
            tasks.create_task(for_ever(self._lead_in_turn, RENEW_S))

    async def _lead_in_turn(self) -> None:
        """Lead until another sidecar does. A lead that is lost is asked for again at once: nobody else may want it."""
        await self._membership.reread()
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
                while True:
                    self._follow_members(tasks)
                    await self._membership.news(within_s=REREAD_S)
                    await self._reread()
        finally:
            self._watches.clear()

    async def _reread(self) -> None:
        await self._membership.reread()
        self._probe.auth.reread(self._membership.settings)

    async def _adopt(self) -> None:
        """Take over what the last leader wrote, and plan to write all of it."""
        with suppress(RedisUnavailable):
            for record in (await self._fleet.load()).records:
                self._records[record.worker.url] = record
        self._unwritten.update(self._records)
        self._tell(is_change=True)

    async def _renew(self, term: Term) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            # While Redis is away nobody can lead, and the checks go on: what they see is written when it is back.
            with suppress(RedisUnavailable):
                if await self._leadership.lead(self._name, LEAD_TTL_S) != term:
                    raise _LeadLost

    def _follow_members(self, tasks: asyncio.TaskGroup) -> None:
        """Make records and watches match the wanted fleet: new ones begin, changed ones change, others end."""
        wanted = self._membership.wanted([record.worker for record in self._records.values()])
        self._tell_strangers(wanted.keys() | self._records.keys())
        for url in self._records.keys() - wanted.keys():
            self._forget(url)
        for url, worker in wanted.items():
            self._adapt(worker)
            if url not in self._watches:
                self._watches[url] = tasks.create_task(self._watch(url))

    def _tell_strangers(self, known: AbstractSet[str]) -> None:
        """Say once of a drain that it is nobody's: it may be a slip."""
        strangers = self._membership.draining - known
        for url in sorted(strangers - self._strangers):
            log.warning("%s is drained, but no such worker is in the fleet", url)
        self._strangers = strangers

    def _forget(self, url: str) -> None:
        del self._records[url]
        if watch := self._watches.pop(url, None):
            watch.cancel()
        self._gone.add(url)
        self._tell(is_change=True)
        log.info("Worker %s has left the fleet", url)

    def _adapt(self, worker: Worker) -> None:
        record = self._records.get(worker.url)
        if record is None:
            record = WorkerRecord(worker)
            log.info("Worker %s has joined the fleet, named by: %s", worker.url, worker.source)
        elif record.worker == worker:
            return
        self._gone.discard(worker.url)
        self._note(replace(record, worker=worker), is_change=True)

    async def _watch(self, url: str) -> None:
        """Check one worker at once, then at a place of its own in each interval, and sooner while it fails."""
        checkup = Checker(url, self._fleet, self._probe, self._deep)
        wait = random.random()
        while True:
            # One check begins in each round of the event loop. 5,000 at once, of a new fleet or one that has gone away,
            # take seconds of CPU: they would time out by no fault of the workers, and the lead with them.
            async with self._turn:
                await asyncio.sleep(0)
            seen = await checkup.look(self._records[url].health, self._membership.settings.health_check)
            before, settings = self._records[url], self._membership.settings
            after = judge(before, seen, settings.health_check.rise, settings.health_check.fall)
            if after.health is not before.health:
                _log_health(after)
            self._note(after, is_change=after.health is not before.health)
            interval = settings.health_check_interval
            is_in_doubt = after.failures or seen.is_outvoted
            await asyncio.sleep(wait * (min(interval, RECHECK_S) if is_in_doubt else interval))
            wait = random.uniform(1 - DRIFT, 1 + DRIFT)

    def _note(self, record: WorkerRecord, *, is_change: bool) -> None:
        self._records[record.worker.url] = record
        self._unwritten.add(record.worker.url)
        self._tell(is_change=is_change)

    def _tell(self, *, is_change: bool) -> None:
        self._is_change = self._is_change or is_change
        self._news.set()

    async def _write(self, term: Term) -> None:
        """Write whatever is unwritten, gathered over a moment, as long as this term lasts."""
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER_S)
            self._news.clear()
            urls, gone, is_change = self._unwritten, self._gone, self._is_change
            self._unwritten, self._gone, self._is_change = set(), set(), False
            try:
                if not await self._fleet.record(term, datetime.now(UTC), self._present(urls), gone, changed=is_change):
                    raise _LeadLost
            except (RedisUnavailable, _LeadLost) as error:
                self._unwritten |= urls
                self._gone |= gone - self._records.keys()
                self._tell(is_change=is_change)
                if isinstance(error, _LeadLost):
                    raise
                await asyncio.sleep(RENEW_S)

    def _present(self, urls: Iterable[str]) -> list[WorkerRecord]:
        return [self._records[url] for url in urls if url in self._records]


def _log_health(record: WorkerRecord) -> None:
    url = record.worker.url
    if record.health is Health.HEALTHY:
        log.info("Worker %s is healthy", url)
    else:
        times = f"{record.failures} failed check{'s' if record.failures > 1 else ''}"
        log.warning("Worker %s is %s after %s: %s", url, record.health.value, times, record.last_error)
