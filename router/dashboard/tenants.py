"""The table of tenants: what each has now, and which share of the worker-seconds of the last minute it had.

No I/O and no clock: each reading carries its time. Worker-seconds count when their attempts end.
"""

from collections import deque
from collections.abc import Mapping

import msgspec

from router.fleet.journal.rates import grown
from router.fleet.stats import TenantStats, TenantUsage
from router.policy.tenants import DEFAULT, TenantRule

# Over so long a share is counted, and a rate.
SHARE_S, RATE_S = 60.0, 5.0
# A reading in so many seconds is kept: with a thousand tenants, one for each second would be large.
KEPT_EVERY_S = 5.0
MOST_ROWS = 50


class TenantRow(msgspec.Struct, frozen=True, array_like=True):
    """One tenant. `rate` are its jobs a second, `jobs` and `failures` the counts.

    `share` is its part of the last minute's worker-seconds. None: not known, or no attempt has ended. `reused` jobs got
    the answers of identical ones, which saved `saved_ms` of the workers' time.
    """

    name: str
    weight: int
    running: int
    waiting: int
    rate: float | None
    jobs: int
    failures: int
    share: float | None
    reused: int = 0
    saved_ms: int = 0


class TenantTable(msgspec.Struct, frozen=True):
    """The rows with the largest shares first, and how many more tenants there are."""

    rows: list[TenantRow] = []
    hidden: int = 0


class Tenants:
    """Makes the table of readings."""

    def __init__(self) -> None:
        self._kept: deque[tuple[float, Mapping[str, TenantUsage]]] = deque()

    def forget(self) -> None:
        """Count anew: Redis was emptied."""
        self._kept.clear()

    def table(self, at: float, tenants: Mapping[str, TenantUsage], rules: Mapping[str, TenantRule]) -> TenantTable:
        """Take the tenants at the Unix time `at`; return their table."""
        self._keep(at, tenants)
        (share_since, share_from), (rate_since, rate_from) = self._kept[0], self._before(at - RATE_S)
        default = rules.get(DEFAULT, TenantRule())
        used_ms = grown(_busy_ms(share_from), _busy_ms(tenants))
        all_ms = sum(used_ms.values()) if share_since < at else 0
        rows = [
            TenantRow(
                *(name, rules.get(name, default).weight, each.running, each.waiting),
                _rate(each.stats.jobs - _stats(rate_from, name).jobs, at - rate_since),
                *(each.stats.jobs, each.stats.failures),
                round(used_ms[name] / all_ms, 3) if all_ms else None,
                *(each.stats.reused, each.stats.saved_ms),
            )
            for name, each in tenants.items()
        ]
        rows.sort(key=lambda row: (-(row.share or 0.0), -row.running, -row.waiting, row.name))
        return TenantTable(rows[:MOST_ROWS], max(0, len(rows) - MOST_ROWS))

    def _keep(self, at: float, tenants: Mapping[str, TenantUsage]) -> None:
        kept = self._kept
        while kept and kept[0][0] < at - SHARE_S - KEPT_EVERY_S:
            kept.popleft()
        while len(kept) > 1 and kept[1][0] <= at - SHARE_S:
            kept.popleft()
        if not kept or at >= kept[-1][0] + KEPT_EVERY_S:
            kept.append((at, tenants))

    def _before(self, moment: float) -> tuple[float, Mapping[str, TenantUsage]]:
        """Return the last reading that is as old as `moment`, or else the oldest one."""
        return next((reading for reading in reversed(self._kept) if reading[0] <= moment), self._kept[0])


def _busy_ms(tenants: Mapping[str, TenantUsage]) -> dict[str, int]:
    return {name: each.stats.busy_ms for name, each in tenants.items()}


def _stats(tenants: Mapping[str, TenantUsage], name: str) -> TenantStats:
    """Return a tenant's counts then; 0 if it was not there, because a tenant that comes again counts from 0."""
    tenant = tenants.get(name)
    return TenantStats() if tenant is None else tenant.stats


def _rate(count: int, seconds: float) -> float | None:
    return round(max(0, count) / seconds, 2) if seconds > 0 else None
