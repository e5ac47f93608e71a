"""Decides whose turn it is: which line of pending jobs gets the next worker with room.

A line is the pending jobs of one tenant in one pool, by ticket. Of the lines that may go, the one of the highest
priority has the turn; among equals the one whose tenant runs the fewest jobs for its weight, then the one whose head
has the lowest ticket. That is max-min fairness over the time of workers, without estimates, and without a memory of the
past. Which of its jobs the line sends, order.py decides.

If the head of a line has waited for `aging_ms`, the line and all lines of higher priority are equals: so a low priority
means late and not never, and weights hold among lines of one priority however long they wait. A line whose tenant runs
as many jobs as it may is out of the turn. lua/turns.lua decides alike.
"""

from bisect import bisect_left, insort
from collections.abc import Collection, Iterable, Mapping, Sequence

from router.policy.tenants import DEFAULT, LONGEST_FIRST, TenantRule
from router.scheduling.local.order import Line, Order, Waiting
from router.scheduling.messages import BEFORE_ALL, LARGEST_SIZE_MS, PRIORITY_STEP, Arrival, Rules

_PLAIN_RULE = TenantRule()


class Turns:
    """The lines of pending jobs, the running jobs of each tenant, and the tenants' rules."""

    def __init__(self, rules: Rules) -> None:
        self.lines: dict[Line, list[Waiting]] = {}
        self._by_name: dict[str, Waiting] = {}
        self.order = Order()
        self.running: dict[str, dict[str, int]] = {}  # tenant → lease → the moment at which it passes
        self._tenants: Mapping[str, TenantRule] = {}
        self._top_priority = 0
        self._aging_ms = rules.aging_ms

    def set_tenants(self, tenants: Mapping[str, TenantRule]) -> None:
        """Take over the tenants' rules; that of the tenant `default` is for those not listed."""
        self._tenants = tenants
        self._top_priority = max(rule.priority for rule in {DEFAULT: _PLAIN_RULE, **tenants}.values())
        for line, jobs in self.lines.items():
            if self.goes_by_size(line):
                self.order.take_in(line, jobs)
            else:
                self.order.drop(line)

    def rule(self, tenant: str) -> TenantRule:
        """Return the tenant's rule."""
        return self._tenants.get(tenant) or self._tenants.get(DEFAULT) or _PLAIN_RULE

    # The lines

    @property
    def waiting(self) -> list[Waiting]:
        """All pending jobs, by ticket."""
        return sorted(job for jobs in self.lines.values() for job in jobs)

    def enter(self, job: Waiting) -> None:
        """Let the job wait in its line."""
        self.leave(job.name)
        insort(self.lines.setdefault(job.line, []), job)
        self._by_name[job.name] = job
        if self.goes_by_size(job.line):
            self.order.enter(job)

    def leave_all(self, names: Iterable[str]) -> None:
        """Take these jobs out of their lines."""
        for name in names:
            self.leave(name)

    def leave(self, name: str) -> None:
        """Take the job out of its line, if it stands in one."""
        if job := self._by_name.pop(name, None):
            jobs = self.lines[job.line]
            del jobs[bisect_left(jobs, job)]
            self.order.leave(job)
            if not jobs:
                del self.lines[job.line]

    def waits(self, name: str) -> bool:
        """Whether the job of this name is pending."""
        return name in self._by_name

    def job_at(self, line: Line, offset: int, *, is_for_slow: bool = False) -> Waiting:
        """Return the job of the line that goes next after `offset` others, to a slow worker or to any."""
        if not self.order.has(line):
            return self.lines[line][offset]
        return self._by_name[self.order.name_at(line, offset, is_for_slow=is_for_slow)]

    def head(self, line: Line) -> Waiting | None:
        """Return the job of the line that goes next; None if it has none."""
        return self.job_at(line, 0) if line in self.lines else None

    def in_order(self, arrivals: Sequence[Arrival], sizes: Mapping[int, int]) -> Sequence[Arrival]:
        """Return the arrivals with those of each line that goes by size in order, among the places that they have."""
        places: dict[Line, list[int]] = {}
        for place, arrival in enumerate(arrivals):
            if self.goes_by_size(line := (arrival.tenant or DEFAULT, arrival.pool)):
                places.setdefault(line, []).append(place)
        ordered = list(arrivals)
        for its in places.values():
            ranked = sorted((arrivals[place] for place in its), key=lambda each: _rank(each, sizes))
            for place, arrival in zip(its, ranked, strict=True):
                ordered[place] = arrival
        return ordered

    def goes_by_size(self, line: Line) -> bool:
        """Whether the line's longest jobs go first."""
        return self.rule(line[0]).order == LONGEST_FIRST

    # The limits

    def run(self, tenant: str, lease: str, moment: int) -> None:
        """Count a lease as its tenant's until `moment`."""
        self.running.setdefault(tenant, {})[lease] = moment

    def end_run(self, tenant: str, lease: str) -> None:
        """Count the lease no longer."""
        self.running.get(tenant, {}).pop(lease, None)

    def drop_lapsed(self, now: int) -> None:
        """Drop the leases whose moment has passed."""
        for tenant, held in self.running.items():
            self.running[tenant] = {lease: moment for lease, moment in held.items() if moment > now}

    def is_at_most(self, tenant: str) -> bool:
        """Whether as many jobs of the tenant run as may."""
        most = self.rule(tenant).max_running
        return most is not None and len(self.running.get(tenant, ())) >= most

    def is_crowded(self, tenant: str) -> bool:
        """Whether as many jobs of the tenant are pending as may be."""
        most = self.rule(tenant).max_waiting
        return most is not None and sum(len(jobs) for line, jobs in self.lines.items() if line[0] == tenant) >= most

    # Whose turn

    def may_go(self) -> list[Line]:
        """Return the lines that may go, as far as their tenants' limits say."""
        return [line for line in self.lines if not self.is_at_most(line[0])]

    def orders(self, lines: Collection[Line], now: int) -> dict[Line, tuple[float, str]]:
        """Return the order of lines that wait for the same workers: the lowest one has the turn."""
        aged = min((self.rule(line[0]).priority for line in lines if self._has_aged(line, now)), default=None)
        return {line: self._order(line, aged) for line in lines}

    def _has_aged(self, line: Line, now: int) -> bool:
        """Whether a line, which is not of the highest priority, has a head that has waited long."""
        is_low = self.rule(line[0]).priority < self._top_priority
        return is_low and now - self.lines[line][0].since >= self._aging_ms

    def _order(self, line: Line, aged: int | None) -> tuple[float, str]:
        tenant, pool = line
        rule, head = self.rule(tenant), self.lines[line][0]
        below = (self._top_priority - rule.priority) * PRIORITY_STEP
        score = len(self.running.get(tenant, ())) / rule.weight + below
        if aged is not None and rule.priority >= aged:
            score -= below  # and not left out above, because the script's scores are rounded by this sum
        return score, f"{head.ticket:016d} {tenant}/{pool}"


def _rank(arrival: Arrival, sizes: Mapping[int, int]) -> int:
    return arrival.ticket - BEFORE_ALL if arrival.ticket else -min(sizes.get(arrival.number, 0), LARGEST_SIZE_MS)
