"""The twin of scheduler.lua: the same decisions over a state in this process.

It serves while Redis is away, each process then with its share of each cap, and it is the model that hypothesis runs
the script against. It decides and keeps state; clock and randomness come in.
"""

from bisect import insort
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from router.fleet.model import Member
from router.policy.verdict import Blame
from router.scheduling.breaker import Breakers
from router.scheduling.messages import (
    CLAIM_WITHIN_MS,
    PASSED_OVER_AT_MOST,
    PROCESS_TTL_MS,
    Arrival,
    Beat,
    Call,
    Claim,
    Ended,
    Grant,
    Reply,
    Rules,
)
from router.scheduling.plan import TRIAL, Plan
from router.scheduling.quarantine import Quarantine
from router.scheduling.rests import Rests
from router.scheduling.retry_budget import RetryBudget


@dataclass(slots=True)
class _Told:
    granted: list[Grant] = field(default_factory=list)
    queued: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    exhausted: list[int] = field(default_factory=list)
    claimed: list[int] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    unfunded: list[int] = field(default_factory=list)
    quarantined: list[int] = field(default_factory=list)


class LocalScheduler:
    """All leases, the queue and the breakers, of one process or, as a model, of many."""

    def __init__(self, rules: Rules, settle_ms: int = 0) -> None:
        self.rules = rules
        self._settle_ms = settle_ms
        self._settles_at: int | None = None
        self._has_begun = False
        self.leases: dict[str, dict[str, int]] = {}
        self.rests = Rests()
        self.breakers = Breakers(rules, self._full_until)
        self.waiting: list[tuple[int, str, int, int, tuple[str, ...]]] = []  # ticket, name, bound, deadline, tried
        self.outbox: dict[str, list[Grant]] = {}
        self.ticket = 0
        self._seed = 0
        self._plan = Plan(rules, self.breakers)
        self._budget = RetryBudget(rules)
        self.quarantine = Quarantine(rules)
        self._beats: dict[str, int] = {}

    def set_fleet(self, members: Iterable[Member]) -> None:
        """Take over who belongs to the fleet, and in what condition."""
        self._plan.set_fleet(members)

    def step(self, call: Call, now: int) -> Reply:
        """Do all that `call` asks at the moment `now` (ms of any clock that does not go back), as one step."""
        told = _Told()
        self._seed = call.seed
        self.rests.look_at_ms = None
        self._settle(now)
        self._make_plan_if_stale()
        self._end(call.process, call.ended, now)
        self._claim(call.process, call.claims, now, told)
        self._drop_lapsed(now)
        self.breakers.open_trials(now)
        self._make_plan_if_stale()
        processes = self._hear_beat(call.process, call.beat, now, told) if call.beat else 0
        for number in call.left:
            self._leave(f"{call.process}:{number}")
        self._serve_queue(call.process, now, told)
        self._arrive(call.process, call.arrived, now, told)
        self._serve_queue(call.process, now, told)
        return Reply(
            routable=len(self._plan.by_url),
            away=self.rests.away,
            look_in_ms=0 if self.rests.look_at_ms is None else self.rests.look_at_ms - now,
            processes=processes,
            granted=tuple(told.granted),
            queued=tuple(told.queued),
            refused=tuple(told.refused),
            exhausted=tuple(told.exhausted),
            claimed=tuple(told.claimed),
            lost=tuple(told.lost),
            missing=tuple(told.missing),
            unfunded=tuple(told.unfunded),
            quarantined=tuple(told.quarantined),
            waiting=len(self.waiting),
            settles=self._settles_at is not None,
        )

    def has_room(self, url: str) -> bool:
        """Whether the worker, which is in the plan, may get one more job now."""
        planned = self._plan.by_url[url]
        if planned.cap == TRIAL:
            return self.breakers.allows(url)
        running = len(self.leases.get(url, ()))
        if not self.rests.have_room(url, running):
            return False
        return planned.cap == 0 or (self._settles_at is None and running < planned.cap)

    def _make_plan_if_stale(self) -> None:
        if self._plan.make_if_stale():
            self.rests.forget_all_but(self._plan.by_url)

    def _settle(self, now: int) -> None:
        """Let a memory that begins empty learn first what runs: until then, workers with a cap get nothing."""
        if not self._has_begun:
            self._has_begun, self._settles_at = True, now + self._settle_ms
        if self._settles_at is not None and self._settles_at <= now:
            self._settles_at = None
            self._plan.expire()

    def _pick(self, ticket: int, tried: Collection[str]) -> str | None:
        open_to_it = (url for url in self._plan.in_order(ticket, self._seed, self._load) if url not in tried)
        return next((url for url in open_to_it if self.has_room(url)), None)

    def _load(self, url: str) -> float | None:
        return len(self.leases.get(url, ())) / self._plan.by_url[url].weight if self.has_room(url) else None

    # Leases

    def _lease(self, url: str, name: str, moment: int) -> None:
        self.leases.setdefault(url, {})[name] = moment
        if self._plan.by_url[url].cap == TRIAL:
            self.breakers.begin_trial(url, name, moment)

    def _end(self, process: str, ended: Sequence[Ended], now: int) -> None:
        for item in ended:
            name = f"{process}:{item.number}"
            if item.is_over:
                self.leases.get(item.url, {}).pop(name, None)
            self._hear_of_rest(item, now)
            if item.blame is not Blame.AWAY or not self._are_all_away() or self.breakers.is_ejected(item.url):
                self.breakers.judge(item, name, now, len(self._plan.fleet))
            if item.blame is Blame.DIED and self._is_to_stay(item.url):
                others = len(self.leases.get(item.url, ()))
                self.quarantine.hear_of_death(item.job, item.url, name, others, now, item.ms)
            elif item.blame is Blame.OK:
                self.quarantine.exonerate(item.job)

    def _hear_of_rest(self, item: Ended, now: int) -> None:
        if item.blame in (Blame.BUSY, Blame.AWAY):
            if item.url in self._plan.by_url and not self.breakers.is_ejected(item.url):
                running = len(self.leases.get(item.url, ()))
                self.rests.turn_away(item.url, running, now, is_away=item.blame is Blame.AWAY, ms=item.ms)
        elif item.blame in (Blame.OK, Blame.ERROR, Blame.DOUBT):
            self.rests.hear_of_answer(item.url)

    def _are_all_away(self) -> bool:
        return self.rests.away >= len(self._plan.by_url)

    def _is_to_stay(self, url: str) -> bool:
        """Whether it was not to end anyway: it belongs to the fleet, and nobody drains it."""
        return url in self._plan.fleet and not self._plan.fleet[url].is_draining

    def _full_until(self, url: str) -> int | None:
        held, cap = self.leases.get(url, {}), self._plan.fleet[url].cap if url in self._plan.fleet else 0
        return min(held.values()) if cap and len(held) >= cap else None

    def _claim(self, process: str, claims: Sequence[Claim], now: int, told: _Told) -> None:
        for claim in claims:
            name = f"{process}:{claim.number}"
            if name not in self.leases.get(claim.url, {}):
                told.lost.append(claim.number)
                continue
            self.leases[claim.url][name] = now + claim.bound_ms
            if self.breakers.is_tried_by(claim.url, name):
                self.breakers.begin_trial(claim.url, name, now + claim.bound_ms)
            self._leave(name)
            told.claimed.append(claim.number)

    def _drop_lapsed(self, now: int) -> None:
        for url, held in self.leases.items():
            self.leases[url] = {name: moment for name, moment in held.items() if moment > now}
        for url, rest in list(self.rests.by_url.items()):
            if rest.until_ms <= now:
                self.rests.pass_by(url, len(self.leases.get(url, ())), now, is_wanted=bool(self.waiting))

    # The queue

    def _leave(self, name: str) -> None:
        self.waiting = [item for item in self.waiting if item[1] != name]

    def _is_alive(self, process: str, own: str, now: int) -> bool:
        return process == own or (process in self._beats and now - self._beats[process] < PROCESS_TTL_MS)

    def _grant(self, own: str, name: str, ticket: int, url: str, bound_ms: int, now: int, told: _Told) -> None:
        process, _, number = name.rpartition(":")
        grant = Grant(int(number), url, ticket)
        if process == own:
            self._lease(url, name, now + bound_ms)
            told.granted.append(grant)
        else:
            self._lease(url, name, now + CLAIM_WITHIN_MS)
            self.outbox.setdefault(process, []).append(grant)

    def _serve_queue(self, own: str, now: int, told: _Told) -> None:
        passed = 0
        while passed < PASSED_OVER_AT_MOST and passed < len(self.waiting):
            if not any(self.has_room(url) for url in self._plan.by_url):
                return
            ticket, name, bound_ms, deadline, tried = self.waiting[passed]
            if deadline <= now or not self._is_alive(name.rpartition(":")[0], own, now):
                del self.waiting[passed]
            elif url := self._pick(ticket, tried):
                del self.waiting[passed]
                self._grant(own, name, ticket, url, bound_ms, now, told)
            else:
                passed += 1

    def _arrive(self, process: str, arrivals: Sequence[Arrival], now: int, told: _Told) -> None:
        # After a loss of memory the counter goes on above the tickets in hand.
        fresh = self.ticket + 1
        newest = max((arrival.ticket for arrival in arrivals), default=0)
        count = sum(arrival.ticket == 0 for arrival in arrivals)
        if newest > self.ticket + count:
            fresh = newest + 1
        self.ticket = fresh + count - 1
        for arrival in arrivals:
            ticket = arrival.ticket
            if not ticket:
                ticket, fresh = fresh, fresh + 1
            name = f"{process}:{arrival.number}"
            if arrival.retry_of and not self._may_retry(arrival, now, told):
                continue
            url = None if self.waiting else self._pick(ticket, arrival.tried)
            if url:
                self._grant(process, name, ticket, url, arrival.bound_ms, now, told)
            elif self._plan.by_url and self._plan.by_url.keys() <= set(arrival.tried):
                told.exhausted.append(arrival.number)
            elif len(self.waiting) >= self.rules.max_waiting:
                told.refused.append(arrival.number)
            else:
                self._leave(name)
                insort(self.waiting, (ticket, name, arrival.bound_ms, now + arrival.wait_ms, arrival.tried))
                told.queued += [arrival.number, ticket]

    def _may_retry(self, arrival: Arrival, now: int, told: _Told) -> bool:
        if self.quarantine.holds(arrival.retry_of, now):
            told.quarantined.append(arrival.number)
        elif not self._budget.take(now, self.ticket):
            told.unfunded.append(arrival.number)
        else:
            return True
        return False

    # Heartbeats

    def _hear_beat(self, process: str, beat: Beat, now: int, told: _Told) -> int:
        self._budget.fill(now, self.ticket)
        self._beats[process] = now
        self._beats = {name: at for name, at in self._beats.items() if now - at < PROCESS_TTL_MS}
        if beat.is_return:
            self._drop_unheld(process, {(held.url, f"{process}:{held.number}") for held in beat.held})
        for held in beat.held:
            self.leases.setdefault(held.url, {}).setdefault(f"{process}:{held.number}", now + held.left_ms)
        waiting = {item[1] for item in self.waiting}
        told.missing += [number for number in beat.oldest if f"{process}:{number}" not in waiting]
        return len(self._beats)

    def _drop_unheld(self, process: str, held: Collection[tuple[str, str]]) -> None:
        for url in self._plan.fleet:
            self.leases[url] = {
                name: moment
                for name, moment in self.leases.get(url, {}).items()
                if name.rpartition(":")[0] != process or (url, name) in held
            }
