"""Tells the journal which tenants have as many running jobs as they may have while more of theirs wait.

Nobody else sees that as a fact: a job that waits does not know why. Jobs that are refused are told by their routers.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Never

from router.fleet.counters import Counters
from router.fleet.journal import sentences
from router.fleet.journal.teller import Teller
from router.fleet.redis_client import RedisUnavailable
from router.fleet.stats import TenantUsage
from router.policy.tenants import DEFAULT, TenantRule
from sidecar.discovery import Discovery
from sidecar.rounds import forever

LOOK_EVERY_S = 2.0
# As long as it lasts it is told this often.
TELL_EVERY_S = 60.0


class Limits:
    """Looks for tenants at their limits. All sidecars may: an event is told once."""

    def __init__(self, discovery: Discovery, counters: Counters, teller: Teller, by: str) -> None:
        self._discovery = discovery
        self._counters = counters
        self._teller = teller
        self._by = by

    async def run(self) -> Never:
        """Look again and again, until cancelled."""
        await forever(self._look, LOOK_EVERY_S)

    async def _look(self) -> None:
        rules = self._discovery.tenants() or {}
        if all(rule.max_running is None for rule in rules.values()):
            return  # there is nothing to ask Redis
        with suppress(RedisUnavailable):
            for name, usage in at_limit(rules, (await self._counters.usage(())).tenants):
                event = sentences.too_many_running(name, usage.running, usage.waiting, self._by)
                self._teller.tell(event, TELL_EVERY_S)


def at_limit(rules: Mapping[str, TenantRule], usage: Mapping[str, TenantUsage]) -> list[tuple[str, TenantUsage]]:
    """Return the tenants whose pending jobs wait for their own limit of running ones.

    >>> from router.fleet.stats import TenantStats
    >>> rules = {"default": TenantRule(max_running=2), "run-7": TenantRule()}
    >>> used = {name: TenantUsage(2, 1, TenantStats()) for name in ("default", "eval", "run-7")}
    >>> [name for name, _ in at_limit(rules, used)]
    ['default', 'eval']
    """
    other = rules.get(DEFAULT, TenantRule())
    limits = {name: rules.get(name, other).max_running for name in usage}
    return [
        (name, each)
        for name, each in usage.items()
        if (most := limits[name]) is not None and each.waiting and each.running >= most
    ]
