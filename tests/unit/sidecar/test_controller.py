"""The controller's terms, checks and writes in simulated time; Redis, discovery and workers are scripted."""

import asyncio
import itertools
import random
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from router.config.settings import HealthCheckSettings, Settings
from router.config.worker_auth import WorkerAuth
from router.fleet.journal.model import Event
from router.fleet.leadership import Term
from router.fleet.model import Health, Observation, Ratios, Worker, WorkerRecord
from router.fleet.redis_client import RedisUnavailable
from router.policy.tenants import TenantRule
from sidecar.controller import GATHER_S, LEAD_TTL_S, RECHECK_S, RENEW_S, REREAD_S, SPEEDS_EVERY_S, Controller
from tests.support.timeless import timeless

A, B = "http://a:1", "http://b:1"
INTERVAL_S = 30
SETTINGS = Settings.model_validate({"workers": [], "health_check_interval": INTERVAL_S})


@pytest.fixture(autouse=True)
def _same_spread() -> None:
    """The random intervals are the same in each run."""
    random.seed(1)


@dataclass
class Written:
    """The records of one write."""

    at: float
    records: dict[str, WorkerRecord]
    gone: set[str]
    changed: bool


@dataclass
class Memory:
    """Redis as this sidecar sees it: whether it is available, which sidecar leads, and what was written."""

    is_there: bool = True
    other_leads: bool = False
    refuses: bool = False
    held: tuple[WorkerRecord, ...] = ()
    terms: int = 0
    asked: int = 0
    written: list[Written] = field(default_factory=list)
    resigned: list[int] = field(default_factory=list)
    leads_until: float = -1.0
    finished: dict[str, float] = field(default_factory=dict)
    published: list[dict[str, TenantRule]] = field(default_factory=list)
    seen: dict[str, Ratios] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def _answer(self) -> None:
        if not self.is_there:
            raise RedisUnavailable("away")

    async def lead(self, name: str, ttl_s: float) -> Term | None:
        """Grant or renew the lead, unless another sidecar has it."""
        self._answer()
        now = asyncio.get_running_loop().time()
        if self.other_leads:
            self.leads_until = -1.0
            return None
        if now > self.leads_until:
            self.terms += 1
        self.leads_until = now + ttl_s
        return Term(self.terms, name)

    async def resign(self, term: Term) -> None:
        """Record the call."""
        self._answer()
        self.resigned.append(term.token)

    async def load(self) -> SimpleNamespace:
        """Return what the last leader wrote."""
        self._answer()
        return SimpleNamespace(records=self.held)

    async def record(
        self,
        term: Term,
        written_at: datetime,
        records: Iterable[WorkerRecord],
        gone: Iterable[str],
        *,
        changed: bool,
        events: Mapping[str, Sequence[Event]],
    ) -> bool:
        """Keep the records and the events."""
        del written_at
        self.asked += 1
        self._answer()
        if self.refuses or term.token != self.terms:
            return False
        now = asyncio.get_running_loop().time()
        self.events += [event for each in events.values() for event in each]
        self.written.append(Written(now, {record.worker.url: record for record in records}, set(gone), changed))
        return True

    async def publish(self, term: Term, rules: dict[str, TenantRule]) -> bool:
        """Keep the rules of tenants."""
        self._answer()
        if self.refuses or term.token != self.terms:
            return False
        self.published.append(rules)
        return True

    async def ratios(self, urls: Iterable[str]) -> dict[str, Ratios]:
        """Return what processes have seen of speeds."""
        del urls
        self._answer()
        return self.seen

    async def finished_s_ago(self, worker_url: str) -> float | None:
        """Return how long ago a job last ended well on the worker."""
        self._answer()
        at = self.finished.get(worker_url)
        return None if at is None else asyncio.get_running_loop().time() - at


class Members:
    """A Discovery that wants `workers`."""

    settings = SETTINGS
    draining: frozenset[str] = frozenset()

    def __init__(self, *urls: str) -> None:
        self.workers = {url: Worker(url) for url in urls}
        self.rules: dict[str, TenantRule] | None = {}
        self.runs = False
        self.rereads = 0

    async def run(self) -> None:
        """Run for ever."""
        self.runs = True
        await asyncio.Event().wait()

    async def wait_for_change(self, within_s: float) -> None:
        """Report no change."""
        await asyncio.sleep(within_s)

    async def reread(self) -> None:
        """Record the call."""
        self.rereads += 1

    def tenants(self) -> dict[str, TenantRule] | None:
        """Return the wanted rules of tenants."""
        return self.rules

    def wanted(self, held: Sequence[Worker]) -> dict[str, Worker]:
        """Return the wanted workers."""
        del held
        return dict(self.workers)


class Workers:
    """A Probe and JobProbe: pings return `errors`, jobs return `job`, and the times of all pings are kept."""

    def __init__(self) -> None:
        self.errors: dict[str, str | None] = {}
        self.pings: dict[str, list[float]] = {}
        self.hang: set[str] = set()
        self.deep: list[float] = []
        self.job: Callable[[], str | None] = lambda: None
        self.auth = WorkerAuth()

    async def ping(self, url: str, settings: HealthCheckSettings) -> Observation:
        """Answer at once or never."""
        del settings
        self.pings.setdefault(url, []).append(asyncio.get_running_loop().time())
        if url in self.hang:
            await asyncio.Event().wait()
        return Observation(datetime.now(UTC), 1.0, self.errors.get(url))

    async def run(self, url: str, timeout_s: float) -> str | None:
        """Run a job."""
        del url, timeout_s
        self.deep.append(asyncio.get_running_loop().time())
        return self.job()


class Life:
    """One controller with its scripted surroundings."""

    def __init__(self, *urls: str) -> None:
        self.memory, self.members, self.workers = Memory(), Members(*urls), Workers()
        self.told: list[float] = []
        around: tuple[Any, ...] = (
            *(self.members, self.memory),
            *(self.memory, self.memory),
            *(self.workers, self.workers, self.memory),
            SimpleNamespace(tell=lambda: self.told.append(now())),
            self,
        )
        self.sidecar = Controller("me", *around)

    async def run(self, term: Term, workers: Callable[[], Iterable[str]]) -> None:
        """Write no history."""

    @asynccontextmanager
    async def led(self, seconds: float = 5) -> AsyncIterator[Memory]:
        """Run the controller for `seconds`, and then while the block runs."""
        living = asyncio.create_task(self.sidecar.run())
        await asyncio.sleep(seconds)
        yield self.memory
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)

    def checked(self, url: str, since: float) -> list[float]:
        """Return when the worker was pinged, from `since` on."""
        return [at for at in self.workers.pings.get(url, []) if at >= since]


def now() -> float:
    """Return the loop's time."""
    return asyncio.get_running_loop().time()


def test_sidecar_that_leads_again_checks_its_workers_again() -> None:
    """When a new term begins, all workers are checked and written at once."""

    async def main() -> None:
        life = Life(A, B)
        async with life.led() as memory:
            memory.other_leads = True
            await asyncio.sleep(10)
            lost, memory.other_leads = now(), False
            life.workers.hang = {B}
            before = len(memory.written)
            await asyncio.sleep(RENEW_S + GATHER_S + 0.1)
            assert [len(life.checked(url, lost)) for url in (A, B)] == [1, 1]
            assert memory.written[before].records.keys() == {A, B}
            assert memory.written[before].changed
            await asyncio.sleep(3 * INTERVAL_S)
            assert len(life.checked(A, lost)) >= 3

    timeless(main())


def test_workers_are_checked_only_with_the_lead() -> None:
    """There are no checks before a term or after it."""

    async def main() -> None:
        life = Life(A)
        life.memory.other_leads = True
        async with life.led(100) as memory:
            assert (life.workers.pings, memory.written) == ({}, [])
            assert life.members.runs
            assert life.members.rereads >= 100  # it still rereads config.yaml
            memory.other_leads = False
            await asyncio.sleep(5)
            memory.other_leads = True
            await asyncio.sleep(2 * RENEW_S)
            since = now()
            await asyncio.sleep(10 * INTERVAL_S)
            assert life.checked(A, since) == []

    timeless(main())


@pytest.mark.parametrize("error", ["refused", None])
def test_change_of_health_during_an_outage_is_announced_afterwards(error: str | None) -> None:
    """The routers are notified even if nothing else changes until then."""

    async def main() -> None:
        life = Life(A)
        life.workers.errors[A] = None if error else "refused"
        async with life.led() as memory:
            memory.is_there = False
            life.workers.errors[A] = error
            await asyncio.sleep(3 * INTERVAL_S)
            before, memory.is_there = len(memory.written), True
            await asyncio.sleep(RENEW_S + 2 * GATHER_S)
            assert memory.terms == 1 or memory.written[before].changed
            written = memory.written[before]
            assert (written.records[A].health, written.changed) == ("unhealthy" if error else "healthy", True)

    timeless(main())


def test_lead_is_kept_while_redis_is_away() -> None:
    """Checks continue and are written when Redis is back, which is asked once a second."""

    async def main() -> None:
        life = Life(A)
        async with life.led() as memory:
            memory.is_there = False
            since, asked = now(), memory.asked
            life.workers.errors[A] = "refused"
            await asyncio.sleep(2 * INTERVAL_S)
            assert len(life.checked(A, since)) >= 1
            assert 20 < memory.asked - asked <= 2 * INTERVAL_S
            memory.is_there = True
            memory.leads_until = now() + LEAD_TTL_S
            await asyncio.sleep(5)
            assert (memory.terms, memory.resigned) == (1, [])
            assert memory.written[-1].records.keys() == {A}

    timeless(main())


def test_each_round_tells_that_the_sidecar_goes_on() -> None:
    """It is told about once a second while this sidecar leads, while another does, and while Redis is away."""

    async def main() -> None:
        life = Life(A)
        async with life.led() as memory:
            await asyncio.sleep(20)
            memory.is_there = False
            await asyncio.sleep(20)
            memory.is_there, memory.other_leads = True, True
            await asyncio.sleep(20)
        gaps = [later - earlier for earlier, later in itertools.pairwise([*life.told, now()])]
        assert max(gaps) <= 2 * max(REREAD_S, RENEW_S)

    timeless(main())


@pytest.mark.parametrize("leave", [False, True])
def test_empty_fleet_is_no_reason_to_look_stale(leave: bool) -> None:
    """Without a worker to check, the sidecar still writes that it works, and tells the routers of no change."""

    async def main() -> None:
        life = Life(*([A] if leave else []))
        async with life.led() as memory:
            life.members.workers = {}
            await asyncio.sleep(2 * REREAD_S)
            since = now()
            await asyncio.sleep(10 * INTERVAL_S)
            written = [each for each in memory.written if each.at >= since]
        moments = [since, *(each.at for each in written), now()]
        gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
        assert max(gaps) <= 2 * REREAD_S
        assert not any(each.changed or each.records or each.gone for each in written)

    timeless(main())


def test_worker_that_leaves_during_an_outage_is_removed_afterwards() -> None:
    """A worker that has returned meanwhile is not removed."""

    async def main() -> None:
        life = Life(A, B)
        async with life.led() as memory:
            memory.is_there = False
            life.members.workers = {}
            await asyncio.sleep(3 * REREAD_S)
            life.members.workers = {B: Worker(B)}
            await asyncio.sleep(3 * REREAD_S)
            before, memory.is_there = len(memory.written), True
            memory.leads_until = now() + LEAD_TTL_S
            await asyncio.sleep(3)
            (written,) = memory.written[before:]
            assert (written.gone, set(written.records), written.changed) == ({A}, {B}, True)

    timeless(main())


def test_worker_that_leaves_is_not_checked_again() -> None:
    """The routers are notified at once, and a worker that returns is new and checked at once."""

    async def main() -> None:
        life = Life(A, B)
        async with life.led() as memory:
            del life.members.workers[A]
            before = len(memory.written)
            await asyncio.sleep(REREAD_S + GATHER_S + 0.1)
            assert [(written.gone, written.changed) for written in memory.written[before:]] == [({A}, True)]
            since = now()
            await asyncio.sleep(5 * INTERVAL_S)
            assert life.checked(A, since) == []
            assert life.checked(B, since)
            assert (memory.terms, memory.resigned) == (1, [])
            life.members.workers[A] = Worker(A)
            since = now()
            await asyncio.sleep(REREAD_S + 0.1)
            assert len(life.checked(A, since)) == 1

    timeless(main())


def test_worker_that_returns_before_the_write_has_not_left() -> None:
    """Otherwise one write would both record and remove it."""

    async def main() -> None:
        life = Life(A, B)
        there = dict(life.members.workers)
        steps = iter([(5.0, {B: Worker(B)}), (GATHER_S / 2, there), (1000, there)])

        async def wait_for_change(within_s: float) -> None:
            del within_s
            after_s, life.members.workers = next(steps)
            await asyncio.sleep(after_s)

        life.members.wait_for_change = wait_for_change  # type: ignore[method-assign]
        async with life.led(4) as memory:
            before = len(memory.written)
            await asyncio.sleep(2)
            (written,) = [written for written in memory.written[before:] if written.changed]
            assert (set(written.records), written.gone) == ({A}, set())

    timeless(main())


def test_drain_of_no_worker_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Neither each reread nor a worker that has just joined causes another line."""

    async def main() -> None:
        life = Life(A)
        life.members.draining = frozenset({A, B})
        async with life.led(10 * REREAD_S):
            told = [line for line in caplog.messages if "drained" in line]
            assert told == [f"{B} is drained, but no such worker is in the fleet"]
            life.members.draining = frozenset({A})
            await asyncio.sleep(2 * REREAD_S)
            life.members.draining = frozenset({A, B})
            await asyncio.sleep(2 * REREAD_S)
            assert caplog.messages.count(told[0]) == 2

    timeless(main())


def test_leader_rereads_configuration_and_worker_secrets() -> None:
    """This also holds at the start of a term that directly follows another one."""

    async def main() -> None:
        life = Life(A)
        reread_at: list[float] = []

        def reread(settings: Settings) -> None:
            assert settings is SETTINGS
            reread_at.append(now())

        async def wait_for_change(within_s: float) -> None:
            await asyncio.sleep(1.3 * within_s)  # at other moments than the lead's renewal

        life.workers.auth = SimpleNamespace(reread=reread)  # type: ignore[assignment]
        life.members.wait_for_change = wait_for_change  # type: ignore[method-assign]
        async with life.led(14 * REREAD_S) as memory:
            assert life.members.rereads >= 10
            assert len(reread_at) == life.members.rereads - 1  # the first one is before any term
            memory.terms += 1  # as if another sidecar had led, so the next write is refused
            life.workers.errors[A] = "sick"
            while not memory.resigned:
                since = now()
                await asyncio.sleep(0.001)
            assert since <= reread_at[-1]

    timeless(main())


def test_one_check_starts_in_each_turn_of_the_loop() -> None:
    """If all checks of a large fleet started at once, healthy workers would time out."""

    async def main() -> None:
        life, rounds, began = Life(*(f"http://{number}" for number in range(20))), 0, []
        ping = life.workers.ping

        async def noted(url: str, settings: HealthCheckSettings) -> Observation:
            began.append(rounds)
            return await ping(url, settings)

        async def count() -> None:
            nonlocal rounds
            while len(began) < 20:
                rounds += 1
                await asyncio.sleep(0)

        life.workers.ping = noted  # type: ignore[method-assign]
        living = asyncio.create_task(life.sidecar.run())
        await count()
        living.cancel()
        await asyncio.gather(living, return_exceptions=True)
        assert len(set(began)) == 20

    timeless(main())


def test_changed_worker_is_written_and_announced_with_its_health() -> None:
    """A new weight causes no check, and unchanged workers are not written."""

    async def main() -> None:
        life = Life(A, B)
        async with life.led() as memory:
            before = len(memory.written)
            life.members.workers[A] = Worker(A, weight=7)
            since = now()
            await asyncio.sleep(REREAD_S + GATHER_S + 0.1)
            (written,) = memory.written[before:]
            record = written.records[A]
            assert (record.worker.weight, record.health, written.changed) == (7, Health.HEALTHY, True)
            assert (set(written.records), life.checked(A, since)) == ({A}, [])

    timeless(main())


def test_check_without_a_change_notifies_no_router() -> None:
    """The check is written, but the routers are not notified."""

    async def main() -> None:
        life = Life(A)
        async with life.led(3 * INTERVAL_S) as memory:
            assert len(memory.written) >= 3
            assert [written.changed for written in memory.written[2:]] == [False] * (len(memory.written) - 2)

    timeless(main())


def test_refused_write_ends_the_term() -> None:
    """Another sidecar leads, and the records are written in this sidecar's next term."""

    async def main() -> None:
        life = Life(A)
        async with life.led() as memory:
            memory.refuses = True
            life.workers.errors[A] = "refused"
            await asyncio.sleep(2 * INTERVAL_S)
            assert memory.resigned[:1] == [1]
            memory.refuses = False
            before = len(memory.written)
            await asyncio.sleep(5)
            assert memory.written[before].records[A].health is Health.UNHEALTHY

    timeless(main())


def test_worker_that_leaves_when_the_lead_is_lost_is_removed_in_the_next_term() -> None:
    """The write that would have removed it was refused."""

    async def main() -> None:
        life = Life(A, B)
        async with life.led() as memory:
            memory.refuses = True
            del life.members.workers[A]
            await asyncio.sleep(3 * REREAD_S)
            memory.refuses = False
            before = len(memory.written)
            await asyncio.sleep(5)
            assert set().union(*(written.gone for written in memory.written[before:])) == {A}

    timeless(main())


def test_each_change_of_health_is_logged_and_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Line and event have the reason, and a health that stays is not told. The worker's coming is told before."""

    async def main() -> None:
        life = Life(A)
        async with life.led(3 * INTERVAL_S) as memory:
            life.workers.errors[A] = "refused"
            await asyncio.sleep(3 * INTERVAL_S)
            life.workers.errors[A] = None
            await asyncio.sleep(3 * INTERVAL_S)
        well = ("worker_healthy", f"Worker {A} is healthy and gets jobs")
        sick = ("worker_unhealthy", f"Worker {A} is unhealthy and gets no jobs, after 2 failed checks: refused")
        joined, *checked = [(event.kind, event.text) for event in memory.events]
        assert (joined[0], checked) == ("worker_joined", [well, sick, well])

    caplog.set_level("INFO")
    timeless(main())
    told = [record.message for record in caplog.records if record.message.startswith(f"Worker {A} is ")]
    ill = f"Worker {A} is unhealthy after 2 failed checks: refused"
    assert told == [f"Worker {A} is healthy", ill, f"Worker {A} is healthy"]


def test_what_happens_without_redis_is_told_afterwards() -> None:
    """The event of a worker that has left says how long ago that was."""

    async def main() -> None:
        life = Life(A, B)
        async with life.led(5) as memory:
            memory.is_there = False
            del life.members.workers[B]
            await asyncio.sleep(60)
            memory.is_there = True
            await asyncio.sleep(10)
            (left,) = [event for event in memory.events if event.kind == "worker_left"]
            assert (left.subject, left.more["late_s"] >= 50) == (B, True)
            assert left.text.endswith(" before this was written: Redis was away)")

    timeless(main())


def test_new_leader_takes_over_the_last_one_s_records() -> None:
    """Workers keep their health, and unwanted workers are removed."""

    async def main() -> None:
        life = Life(A)
        life.memory.held = tuple(WorkerRecord(Worker(url), Health.UNHEALTHY, failures=3) for url in (A, B))
        life.workers.errors[A] = "refused"
        async with life.led(3) as memory:
            first = memory.written[0]
            assert (first.records[A].health, first.records[A].failures) == (Health.UNHEALTHY, 4)
            assert (set(first.records), first.gone, first.changed) == ({A}, {B}, True)

    timeless(main())


@pytest.mark.parametrize(
    ("error", "finishes", "least_s", "most_s"),
    [(None, False, 27, 33), ("refused", False, 1.8, 2.2), ("timed out", True, 1.8, 2.2)],
)
def test_worker_with_a_failed_check_is_checked_soon(
    error: str | None, finishes: bool, least_s: float, most_s: float
) -> None:
    """After a failed check, outvoted or not, checks come every 2 s; otherwise once in about an interval."""

    async def main() -> None:
        life = Life(A)
        life.workers.errors[A] = error
        async with life.led() as memory:
            for _ in range(400):
                if finishes:
                    memory.finished[A] = now()
                await asyncio.sleep(1)
            times = life.workers.pings[A]
            gaps = [later - earlier for earlier, later in itertools.pairwise(times[1:])]
            assert gaps
            assert least_s - 0.01 <= min(gaps)
            assert max(gaps) <= most_s + 0.01
            assert max(gaps) - min(gaps) > 0.01  # the times drift
            if finishes:
                assert memory.written[-1].records[A].failures == 0

    assert RECHECK_S == 2
    timeless(main())


def test_checks_of_many_workers_are_spread_over_the_interval() -> None:
    """New workers are all checked at once, later each at its own time, and one write gathers checks of a moment."""

    async def main() -> None:
        urls = [f"http://w{number}:1" for number in range(60)]
        life = Life(*urls)
        async with life.led(0) as memory:
            await asyncio.sleep(2 * GATHER_S)
            assert life.workers.pings.keys() == set(urls)
            assert set(memory.written[0].records) == set(urls)
            await asyncio.sleep(INTERVAL_S)
            second = sorted(life.workers.pings[url][1] for url in urls)
            assert len(second) == 60
            assert second[8] < INTERVAL_S / 2 < second[52]

    timeless(main())


def test_speeds_are_written_when_they_change() -> None:
    """Routers are told at once of a slow worker, and of its repair; not while nothing changes or Redis is away."""

    async def main() -> None:
        life = Life(A, B)
        async with life.led() as memory:
            memory.seen = {A: Ratios(0.0, 0.0, 20), B: Ratios(22.0, 24.2, 20)}
            assert await changes(memory) == [{A: 1.73, B: 0.58}]
            assert await changes(memory) == []
            memory.is_there, memory.seen = False, {}
            assert await changes(memory) == []
            memory.is_there = True
            assert await changes(memory) == [{A: 1.0, B: 1.0}]

    async def changes(memory: Memory) -> list[dict[str, float]]:
        """Return the speeds in the changes that are written in the next moments."""
        before = len(memory.written)
        await asyncio.sleep(2 * SPEEDS_EVERY_S + 1)
        written = [each for each in memory.written[before:] if each.changed]
        return [{url: record.speed for url, record in each.records.items()} for each in written]

    timeless(main())


def test_rules_of_tenants_are_published_as_soon_as_they_are_known() -> None:
    """Not before it is known what is set at run time, for that would be lost; and again after Redis was away."""

    async def main() -> None:
        life = Life(A)
        life.members.rules = None
        async with life.led(3) as memory:
            assert memory.published == []
            life.members.rules = {"run-7": TenantRule(weight=3)}
            await asyncio.sleep(REREAD_S + 0.1)
            assert memory.published[-1] == life.members.rules
            memory.is_there = False
            await asyncio.sleep(3)
            memory.is_there = True
            life.members.rules = {}
            await asyncio.sleep(REREAD_S + 0.1)
            assert memory.published[-1] == {}

    timeless(main())
