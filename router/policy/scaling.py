"""Decides how many slots the fleet needs, so that whatever starts workers can follow: KEDA, a script, a person.

    wanted slots = running jobs + waiting worker-seconds / target wait

Running jobs are what the fleet is asked for now. Waiting worker-seconds are the pending jobs times how long such a job
has a worker (s). The target wait (s) is within how long all of them shall have begun.

A fleet's workers are of one or more kinds, by labels and languages: those of one kind are what one Deployment starts.
Running jobs count for the kind on which they run, pending ones for the kind that can run them and can do least else.
"""

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from router.policy.placement import pool_name, serves


class Kind(msgspec.Struct, frozen=True):
    """Workers that are alike: they have these labels, and run these languages; without any, every language."""

    labels: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()

    @property
    def pool(self) -> str:
        """Its name, like that of the pool of all jobs that only this kind runs.

        >>> Kind(("gpu",), ("cpp", "python")).pool, Kind().pool
        ('gpu;cpp,python', '')
        """
        return pool_name(self.labels, ",".join(self.languages))


class Has(msgspec.Struct, frozen=True):
    """The workers of a kind: how many, how many jobs they may run at once (None: one has no cap), how many run."""

    workers: int = 0
    slots: int | None = 0
    running: int = 0


class Waiting(msgspec.Struct, frozen=True):
    """Pending jobs of one pool, and how long each is expected to have a worker (s)."""

    pool: str
    jobs: int
    seconds_each: float


class Wanted(msgspec.Struct, frozen=True):
    """What a kind has and what it needs. `waiting_s` are worker-seconds; `workers_wanted` None: they have no caps."""

    pool: str
    has: Has
    waiting: float
    waiting_s: float
    slots_wanted: float

    @property
    def workers_wanted(self) -> int | None:
        """How many workers of the mean cap have the wanted slots."""
        if not self.has.slots:
            return None
        # Rounded, so that a sum of fractions does not start a worker.
        return math.ceil(round(self.slots_wanted * self.has.workers / self.has.slots, 6))


def wanted(kinds: Mapping[Kind, Has], waiting: Iterable[Waiting], target_wait_s: float) -> list[Wanted]:
    """Return what each kind of workers needs, by name; also of a pool that has pending jobs and no worker.

    >>> (found,) = wanted({Kind(): Has(2, 8, 8)}, [Waiting("", 40, 3.0)], 10.0)
    >>> found.slots_wanted, found.workers_wanted
    (20.0, 5)
    """
    jobs = {kind.pool: 0.0 for kind in kinds}
    seconds = dict(jobs)
    for each in waiting:
        for pool, share in _shares(each.pool, kinds).items():
            jobs[pool] = jobs.get(pool, 0.0) + each.jobs * share
            seconds[pool] = seconds.get(pool, 0.0) + each.jobs * each.seconds_each * share
    held = {kind.pool: has for kind, has in kinds.items()}
    found = []
    for pool in sorted(jobs):
        has = held.get(pool, Has())
        found.append(Wanted(pool, has, jobs[pool], seconds[pool], has.running + seconds[pool] / target_wait_s))
    return found


def whole(parts: Sequence[Wanted]) -> Wanted:
    """Return what the whole fleet has and needs."""
    slots = [part.has.slots for part in parts]
    has = Has(
        sum(part.has.workers for part in parts),
        None if None in slots else sum(each or 0 for each in slots),
        sum(part.has.running for part in parts),
    )
    return Wanted(
        *("", has, sum(part.waiting for part in parts)),
        *(sum(part.waiting_s for part in parts), sum(part.slots_wanted for part in parts)),
    )


def _shares(pool: str, kinds: Mapping[Kind, Has]) -> dict[str, float]:
    """Return which part of a pool's pending jobs counts for which kind, by the kinds' names.

    Kinds that can do equally little else share them by their workers.
    """
    fitting = [kind for kind in kinds if serves(pool, kind.labels, kind.languages)]
    if not fitting:
        return {pool: 1.0}
    least = min(map(_abilities, fitting))
    chosen = {kind.pool: max(1, kinds[kind].workers) for kind in fitting if _abilities(kind) == least}
    return {name: count / sum(chosen.values()) for name, count in chosen.items()}


def _abilities(kind: Kind) -> tuple[int, float]:
    return len(kind.labels), len(kind.languages) or math.inf
