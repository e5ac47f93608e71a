"""Decides which job of a line goes first: the one that came first or, if its tenant says so, the longest one.

Where the longest goes first, a job that has waited for half of its patience goes before all others, by ticket. So does
a job that has had its turn before: a retry, or one whose grant was lost. So do a job that gets a place which another
one has left, and jobs that were pending when the order was set. Where only slow workers have room, they get the
shortest jobs: a long one would be the last to end, or would reach its time limit. lua/order.lua decides alike.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from router.policy.tenants import DEFAULT
from router.scheduling.messages import BEFORE_ALL, LARGEST_SIZE_MS, TICKETS_APART, Arrival, Call, lease_name

# The tenant and the pool.
Line = tuple[str, str]


@dataclass(frozen=True, slots=True, order=True)
class Waiting:
    """A pending job. `name` is `process:number`; moments are in ms.

    `size_ms` is how long the job is expected to take; 0: that is not known. From `hurries_at` on it goes before all of
    a line whose longest jobs go first.
    """

    ticket: int
    name: str
    bound_ms: int = field(compare=False)
    deadline: int = field(compare=False)
    since: int = field(compare=False)
    tried: tuple[str, ...] = field(compare=False)
    line: Line = field(compare=False)
    memory_mb: int = field(compare=False)
    size_ms: int = field(compare=False, default=0)
    hurries_at: int = field(compare=False, default=0)

    @classmethod
    def of(cls, arrival: Arrival, process: str, ticket: int, now: int, size_ms: int = 0) -> "Waiting":
        """Return the job of a process that arrives now; a job that has had its turn before hurries at once."""
        line, hurries_at = (
            (arrival.tenant or DEFAULT, arrival.pool),
            now if arrival.ticket else now + arrival.wait_ms // 2,
        )
        return cls(
            *(ticket, lease_name(process, arrival.number), arrival.bound_ms, now + arrival.wait_ms, now),
            *(arrival.tried, line, arrival.memory_mb, size_ms, hurries_at),
        )

    def place(self, now: int) -> float:
        """Return the job's place in a line whose longest jobs go first: the lowest goes first.

        >>> job = Waiting(7, "p:1", 1000, 9000, 1000, (), ("default", ""), 0, 250, 5000)
        >>> round(job.place(1000), 3), job.place(5000) < -(10**15)
        (-250.0, True)
        """
        if self.hurries_at <= now:
            return float(self.ticket - BEFORE_ALL)
        return self.ticket % TICKETS_APART / TICKETS_APART - min(self.size_ms, LARGEST_SIZE_MS)


def second_runs(call: Call, now: int) -> dict[int, Waiting]:
    """Return the arrivals of a call that are second runs of jobs, by their numbers. They do not wait."""
    numbers = {wish.number for wish in call.wishes if wish.is_hedge}
    return {
        each.number: Waiting.of(each, call.process, each.ticket, now) for each in call.arrived if each.number in numbers
    }


class Order:
    """The jobs of the lines whose longest jobs go first, in order."""

    def __init__(self) -> None:
        self._by_line: dict[Line, list[tuple[float, str]]] = {}
        self._placed: dict[str, tuple[float, Waiting]] = {}
        self._patience: list[tuple[int, Waiting]] = []  # by the moment at which each hurries

    def has(self, line: Line) -> bool:
        """Whether the line's longest jobs go first."""
        return line in self._by_line

    def names(self, line: Line) -> list[str]:
        """Return the names of the line's jobs, in order."""
        return [name for _, name in self._by_line[line]]

    def name_at(self, line: Line, offset: int, *, is_for_slow: bool = False) -> str:
        """Return the name of the job that goes next after `offset` others.

        A slow worker gets the shortest job that has not waited long.
        """
        places = self._by_line[line]
        if is_for_slow and offset >= (hurrying := bisect_left(places, (-float(LARGEST_SIZE_MS), ""))):
            offset = len(places) - 1 - (offset - hurrying)
        return places[offset][1]

    def enter(self, job: Waiting) -> None:
        """Give the job its place; it has just entered its line."""
        self._put(job, job.place(job.since))
        if job.hurries_at > job.since:
            heappush(self._patience, (job.hurries_at, job))

    def take_in(self, line: Line, jobs: Iterable[Waiting]) -> None:
        """Let the line's longest jobs go first from now on, after those that wait already."""
        if line not in self._by_line:
            for job in jobs:
                self._put(job, job.ticket - BEFORE_ALL)

    def leave(self, job: Waiting) -> None:
        """Forget the job, which has left its line."""
        if held := self._placed.pop(job.name, None):
            places = self._by_line[job.line]
            del places[bisect_left(places, (held[0], job.name))]
            if not places:
                del self._by_line[job.line]

    def drop(self, line: Line) -> None:
        """Let the line's jobs go in order of arrival from now on."""
        for _, name in self._by_line.pop(line, ()):
            del self._placed[name]

    def hurry(self, now: int) -> None:
        """Put those before all that have waited for half of their patience."""
        while self._patience and self._patience[0][0] <= now:
            _, job = heappop(self._patience)
            if self._placed.get(job.name, (0, None))[1] is job:
                self.leave(job)
                self._put(job, job.place(now))

    def _put(self, job: Waiting, place: float) -> None:
        insort(self._by_line.setdefault(job.line, []), (place, job.name))
        self._placed[job.name] = place, job
