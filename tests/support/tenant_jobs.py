"""The jobs of one process, and of tenants, on a worker whose scheduler is the script or its Python twin."""

from collections import Counter
from collections.abc import Mapping

from redis import Redis

from router.fleet.model import Member, Worker
from router.policy.tenants import TenantRule
from router.policy.verdict import Blame
from router.scheduling.local.scheduler import LocalScheduler
from router.scheduling.messages import SETTLE_MS, Arrival, Call, Ended, Grant, Reply, Rules, Wish
from tests.support.lua_scheduler import START, A, LuaScheduler

LONG_MS = 60_000


class Jobs:
    """One process whose jobs run on one worker, until a test ends them."""

    def __init__(self, scheduler: LuaScheduler | LocalScheduler) -> None:
        self.scheduler = scheduler
        self.now = START
        self.running: list[Grant] = []
        self.numbers = 0

    def ask(self, call: Call) -> Reply:
        """Make a call."""
        reply = self.scheduler.step(call, self.now)
        self.running += reply.granted
        return reply

    def come(self, tenant: str, count: int = 1, memory_mb: int = 0) -> Reply:
        """Let jobs of a tenant come."""
        self.numbers += count
        numbers = range(self.numbers - count + 1, self.numbers + 1)
        arrived = (Arrival(number, LONG_MS, LONG_MS, tenant=tenant, memory_mb=memory_mb) for number in numbers)
        return self.ask(Call("p", arrived=tuple(arrived)))

    def come_by_size(self, tenant: str, *sizes: int, wait_ms: int = LONG_MS, memory_mb: int = 0) -> Reply:
        """Let jobs of a tenant come together that are expected to take so long (ms)."""
        first = self.numbers + 1
        self.numbers += len(sizes)
        arrived = tuple(
            Arrival(number, LONG_MS, wait_ms, tenant=tenant, memory_mb=memory_mb)
            for number in range(first, self.numbers + 1)
        )
        wishes = tuple(Wish(number, size) for number, size in enumerate(sizes, first))
        return self.ask(Call("p", arrived=arrived, wishes=wishes))

    def end(self, grant: Grant) -> Reply:
        """End a running job."""
        self.running.remove(grant)
        ended = Ended(grant.url, grant.number, Blame.OK, tenant=grant.tenant, memory_mb=grant.memory_mb)
        return self.ask(Call("p", ended=(ended,)))

    def end_oldest(self) -> str:
        """End the job that has run longest; return whose job gets its room."""
        (grant,) = self.end(self.running[0]).granted
        return grant.tenant

    def count(self) -> Counter[str]:
        """Return how many jobs of each tenant run."""
        return Counter(grant.tenant for grant in self.running)


class MakeJobs:
    """Makes a scheduler over one worker, its memory settled."""

    def __init__(self, redis: Redis, kind: str) -> None:
        self._redis = redis
        self._kind = kind

    def __call__(self, cap: int, tenants: Mapping[str, TenantRule] | None = None, **rules: int) -> Jobs:
        """Give the worker this cap, and the tenants these rules."""
        own = Rules(**rules)  # type: ignore[arg-type]
        scheduler = LuaScheduler(self._redis, own) if self._kind == "script" else LocalScheduler(own, SETTLE_MS)
        scheduler.set_fleet([Member(Worker(A, max_concurrency=cap))])
        scheduler.set_tenants(tenants or {})
        scheduler.step(Call("p"), START - SETTLE_MS)
        return Jobs(scheduler)
