"""Decides which workers the fleet should have: those of config.yaml, registrations, workers_file and a DNS name.

It also decides which rules the tenants have: those of config.yaml, with what is set at run time over them.

Several of these may name one worker. Then the first in this order gives its weight and cap. An operator's overrides win
over all of them.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Never

from router.config.settings import Settings
from router.fleet.intents import Intent, Intents
from router.fleet.journal import sentences
from router.fleet.journal.model import Event
from router.fleet.model import Source, Worker
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.fleet.tenants import rules_in_force
from router.fleet.worker_list import configured_workers, with_default_cap
from router.policy.tenants import MAX_TENANTS, TenantRule
from sidecar.rounds import forever
from sidecar.sources import ConfigFile, DnsName, Resolve, WorkersFile, addresses_of

log = logging.getLogger(__name__)

# How long answers of Kubernetes' DNS are valid by default.
DNS_EVERY_S = 5.0
# While Redis is away, its channel is subscribed to again this often.
LISTEN_AGAIN_S = 1.0
# Changes of the intents within this time are read together.
GATHER_S = 0.05
# A drain that was told this long ago, or later, is the one that is seen.
_TOLD_BY_NOW_S = 10.0


class Discovery:
    """Follows all sources of workers. `settings` are the last good ones of config.yaml.

    `tell` gets what the journal should know, and how many seconds it is to be apart from its like.
    """

    def __init__(
        self,
        path: Path,
        settings: Settings,
        redis: RedisClient,
        resolve: Resolve = addresses_of,
        tell: Callable[[Event, float], None] = lambda _event, _apart_s: None,
    ) -> None:
        self.settings = settings
        self._tell = tell
        self._config = ConfigFile(path, lambda event: tell(event, 0.0))
        self._redis = redis
        self._intents = Intents(redis)
        self._resolve = resolve
        self._intent: Intent | None = None
        self._trouble = ""
        self._left_out: tuple[str, ...] = ()
        self._file: WorkersFile | None = None
        self._dns: DnsName | None = None
        self._follow_settings(None)
        self._has_changed = asyncio.Event()

    async def run(self) -> Never:
        """Listen for changes of the intents and resolve the DNS name, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(forever(self._listen, LISTEN_AGAIN_S))
            await forever(self._look_up, DNS_EVERY_S)

    @property
    def draining(self) -> frozenset[str]:
        """The URLs that get no new jobs, including those that are not in the fleet."""
        return self._intent.draining if self._intent else frozenset()

    def tenants(self) -> dict[str, TenantRule] | None:
        """Return the rule of each tenant that has one, by name; None while it is not known what is set at run time."""
        if self._intent is None or self._intent.tenants is None:
            return None
        rules, left_out = rules_in_force(self.settings.tenants, self._intent.tenants)
        if left_out and left_out != self._left_out:
            names = ", ".join(left_out)
            log.error("Passed over: what is set of tenants beyond the first %d with a rule: %s", MAX_TENANTS, names)
        self._left_out = left_out
        return rules

    async def wait_for_change(self, within_s: float) -> None:
        """Return when intents or the DNS answer have changed, or after `within_s` seconds. Then `reread` is due."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._has_changed.wait()
                await asyncio.sleep(GATHER_S)
        self._has_changed.clear()

    async def reread(self) -> None:
        """Read the sources that have changed. A source that cannot be read keeps its last answer."""
        before = self.settings
        if settings := self._config.reread():
            self.settings = settings
            self._follow_settings(before)
        if self._file:
            await asyncio.to_thread(self._file.reread)  # a long list takes a while to parse
        try:
            await self._reread_intent()
        except RedisUnavailable as error:
            if self._redis.available and self._trouble != str(error):
                log.error("Registrations, drains and overrides stay as they were: %s", error)  # noqa: TRY400
            self._trouble = str(error)
        else:
            self._trouble = ""

    def wanted(self, held: Sequence[Worker]) -> dict[str, Worker]:
        """Return the workers that the fleet should have, by URL.

        `held` are those that it has. A worker of a source that has not answered yet stays: a new leader knows it only
        from the leader before.
        """
        intent = self._intent or Intent(None)
        silent = {
            *([Source.FILE] if self._file is not None and self._file.workers is None else []),
            *([Source.DNS] if self._dns is not None and self._dns.urls is None else []),
        }
        named = (
            *(worker for worker in held if self._intent is None),
            *configured_workers(self.settings),
            *(with_default_cap(each.worker, self.settings) for each in intent.registrations.values()),
            *(with_default_cap(each, self.settings) for each in (self._file and self._file.workers) or ()),
            *(with_default_cap(each, self.settings) for each in self._resolved()),
            *(worker for worker in held if worker.source in silent),
        )
        wanted: dict[str, Worker] = {}
        for worker in named:
            wanted.setdefault(worker.url, worker)
        for url in intent.overrides.keys() & wanted.keys():
            wanted[url] = intent.overrides[url].over(wanted[url])
        return wanted

    def _resolved(self) -> list[Worker]:
        """Return the workers of the DNS name, with what all of them have by config.yaml."""
        all_have = self.settings.discover
        abilities = all_have.labels, all_have.languages, all_have.memory_mb
        return [Worker(url, 1, None, Source.DNS, *abilities) for url in (self._dns and self._dns.urls) or ()]

    def _follow_settings(self, before: Settings | None) -> None:
        path, name = self.settings.workers_file, self.settings.discover.dns
        if before is None or before.workers_file != path:
            self._file = WorkersFile(Path(path)) if path else None
        if before is None or before.discover.dns != name:
            self._dns = DnsName(name, self._resolve) if name else None

    async def _reread_intent(self) -> None:
        intent, known = await self._intents.read(), self._intent
        if intent.born is None:  # no sidecar has led since Redis was emptied: it holds no intents yet
            return
        if known and known.born != intent.born:
            log.warning("Redis has lost what it held: registrations, drains, overrides and tenants are written again")
            await self._intents.restore(known)
            intent = await self._intents.read()
        for spelt, url in intent.respelt.items():
            await self._intents.respell(spelt, url)
            log.info("What Redis holds for %r is held for %s from now on", spelt, url)
        if intent.tenants is None and known is not None:
            intent = replace(intent, tenants=known.tenants)
        if intent.problems and (known is None or known.problems != intent.problems):
            for problem in intent.problems:
                log.error("Passed over: %s", problem)
        self._intent = intent
        if known and known.draining != intent.draining:
            self._tell_of_drains(known.draining, intent.draining)

    def _tell_of_drains(self, before: AbstractSet[str], now: AbstractSet[str]) -> None:
        """Tell of drains that redis-cli has set or ended. Whoever uses the API or `sfr` has told by now.

        The drain of a worker that has left the fleet has ended with that, and is not told.
        """
        for url in now - before:
            self._tell(sentences.drained(url, "redis-cli, or another client of Redis"), _TOLD_BY_NOW_S)
        for url in (before - now) & self.wanted([]).keys():
            self._tell(sentences.resumed(url, "redis-cli, or the worker's new registration"), _TOLD_BY_NOW_S)

    async def _look_up(self) -> None:
        if (dns := self._dns) and await dns.look_up():
            self._has_changed.set()

    async def _listen(self) -> None:
        with suppress(RedisUnavailable):
            async for _ in self._redis.heard(self._redis.keys.wishes):
                self._has_changed.set()
