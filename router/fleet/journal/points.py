"""The fleet's rates step by step: which step a reading ends, what it says of that step, and how steps become series.

Pure: each reading carries its time, by Redis' clock. Steps begin at whole multiples of their length. A step is known if
one reading was made about when it began, and one about when it ended; else nothing is said of it. Percentiles come from
histograms that all processes have added to, so they are those of all jobs in the step.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum

import msgspec

from router.fleet.journal.rates import grown, has_fallen, rates
from router.fleet.stats import Usage
from router.policy.tenants import OTHER

# So many tenants have worker-seconds of their own in a step, and in a series; the rest count as OTHER.
MOST_TENANTS = 50
# More points are kept than are shown, because one that Redis did not confirm in time was written again.
SPARE = 10


class Series(msgspec.Struct, frozen=True):
    """Points of one step's length, and how many of them are shown."""

    step_s: int
    count: int

    @property
    def kept(self) -> int:
        """How many points Redis keeps."""
        return self.count + SPARE


HOUR, DAY = Series(10, 360), Series(60, 1440)


class Range(StrEnum):
    """How much of the past is asked for."""

    MINUTES = "5m"
    HOUR = "1h"
    DAY = "24h"


# Where each range's points are, and how many it has.
RANGES: Mapping[Range, tuple[Series, int]] = {
    Range.MINUTES: (HOUR, 30),
    Range.HOUR: (HOUR, HOUR.count),
    Range.DAY: (DAY, DAY.count),
}


class Point(msgspec.Struct, frozen=True, array_like=True):
    """One step: when it began (Unix s), rates a second, times, and each tenant's worker-seconds, as its attempts ended.

    `running` and `waiting` are means of what was seen in the step. A time is None if nothing ended.
    """

    begins: int
    throughput: float
    running: float
    waiting: float
    p50_ms: float | None
    p99_ms: float | None
    queue_p50_ms: float | None
    queue_p99_ms: float | None
    errors: float
    retries: float
    tenants: dict[str, float] = {}


# The names of a point's numbers, in the order of Point.
NUMBERS = Point.__struct_fields__[1:-1]


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """The reading with which a step has begun, and what was seen in the step so far, in sum.

    `busy_ms` are the tenants' worker-milliseconds. A new leader goes on from the last one's mark.
    """

    at_ms: int
    fleet: dict[str, int] = {}
    busy_ms: dict[str, int] = {}
    seen: int = 0
    running: int = 0
    waiting: int = 0


def advanced(mark: Mark | None, usage: Usage, step_s: int) -> tuple[Mark, Point | None]:
    """Return the mark after this reading, and the step's point if the reading ends a step."""
    step_ms = step_s * 1000
    running = sum(worker.leases for worker in usage.workers.values())
    new = Mark(usage.at_ms, dict(usage.fleet), {name: each.stats.busy_ms for name, each in usage.tenants.items()})
    if mark is None:
        return new, None
    seen = msgspec.structs.replace(
        mark, seen=mark.seen + 1, running=mark.running + running, waiting=mark.waiting + usage.waiting
    )
    steps = usage.at_ms // step_ms - mark.at_ms // step_ms
    if steps == 0 and usage.at_ms >= mark.at_ms:
        return seen, None
    # With a reading of less than half a step ago, the processes' counts, which come once a second, say too little.
    is_known = steps == 1 and 2 * (usage.at_ms - mark.at_ms) >= step_ms
    return new, _point(seen, usage, mark.at_ms // step_ms * step_s) if is_known else None


def _point(mark: Mark, usage: Usage, begins: int) -> Point:
    before, seconds = Usage(0, 0, mark.fleet), (usage.at_ms - mark.at_ms) / 1000
    found = rates(before, usage, seconds)
    # If Redis has lost its memory, tenants count from 0 as well.
    busy_ms = {} if has_fallen(mark.fleet, usage.fleet) else mark.busy_ms
    worked_ms = grown(busy_ms, {name: each.stats.busy_ms for name, each in usage.tenants.items()})
    return Point(
        begins,
        round(found.jobs, 3),
        round(mark.running / mark.seen, 1),
        round(mark.waiting / mark.seen, 1),
        _ms(found.p50_s),
        _ms(found.p99_s),
        _ms(found.queue_p50_s),
        _ms(found.queue_p99_s),
        round(found.errors, 3),
        round(found.retries, 3),
        {name: round(ms / 1000, 2) for name, ms in _largest(worked_ms).items()},
    )


class History(msgspec.Struct, frozen=True):
    """The past, step by step from `begins` (Unix s); None where nothing is known.

    `series` are a Point's NUMBERS; `tenants` worker-seconds in each step, by tenant.
    """

    step_s: int
    begins: int
    series: dict[str, list[float | None]]
    tenants: dict[str, list[float | None]]


def laid_out(points: Iterable[Point], step_s: int, count: int, now_s: float) -> History:
    """Return `count` steps up to now, by Redis' clock. Of two points of one step the later one counts.

    The last step is the last one that has ended, or the one before, if the last one's point has not come so far.
    """
    ended = int(now_s) // step_s * step_s
    known = {point.begins: point for point in points}
    if ended - step_s not in known and ended - 2 * step_s in known:
        ended -= step_s
    begins = ended - count * step_s
    steps = [known.get(begins + number * step_s) for number in range(count)]
    shown = [point for point in steps if point is not None]
    sums: dict[str, float] = {}
    for point in shown:
        for name, seconds in point.tenants.items():
            sums[name] = sums.get(name, 0.0) + seconds
    largest = _largest(sums)
    return History(
        step_s,
        begins,
        {name: [None if point is None else getattr(point, name) for point in steps] for name in NUMBERS},
        {
            name: [None if point is None else _rest(point, largest) for point in steps]
            if name == OTHER
            else [None if point is None else point.tenants.get(name, 0.0) for point in steps]
            for name in largest
        },
    )


def _rest(point: Point, shown: Mapping[str, float]) -> float:
    """Return the worker-seconds of the tenants that have no series of their own."""
    return round(sum(seconds for name, seconds in point.tenants.items() if name == OTHER or name not in shown), 2)


def _largest(sums: Mapping[str, float]) -> dict[str, float]:
    """Return the MOST_TENANTS largest sums above 0 by name, and the rest as OTHER.

    >>> _largest({"a": 1, "b": 0, "c": 2})
    {'c': 2, 'a': 1}
    """
    order = sorted((name for name in sums if sums[name] > 0 and name != OTHER), key=lambda name: -sums[name])
    found = {name: sums[name] for name in order[:MOST_TENANTS]}
    rest = sums.get(OTHER, 0) + sum(sums[name] for name in order[MOST_TENANTS:])
    return {**found, OTHER: rest} if rest else found


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 1)


def points_of(texts: Sequence[str]) -> list[Point]:
    """Read points as Redis holds them; one that somebody else has written there is left out."""
    found = []
    for text in texts:
        try:
            found.append(_decode(text))
        except msgspec.DecodeError:
            continue
    return found


_decode = msgspec.json.Decoder(Point).decode
