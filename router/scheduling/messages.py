"""What one call of `scheduler` says and is told: the values on both sides of scheduler.lua and of its Python twin.

Times are in milliseconds of Redis' own clock, or lengths of time; nobody sends the time of day. A lease is named
`process:number`; within one process the number is enough.
"""

from enum import StrEnum

import msgspec

from router.config.settings import Settings
from router.policy.verdict import Blame

# Without a heartbeat for so long a process is dead, and its waiting jobs block nobody any more.
PROCESS_TTL_MS = 2000
# A grant that its process does not claim within this is taken back. Together with the above: 3 s.
CLAIM_WITHIN_MS = 1000
# When its memory begins empty, the scheduler gives workers with a cap nothing for so long: every process sees within a
# second that Redis is back, and hands in what it holds at its next heartbeat.
SETTLE_MS = 2000
# What retries are saved up runs off over this time.
BUDGET_WINDOW_MS = 10_000
# Connections to one worker that die within this time died together: of one cause.
BROKEN_WITHIN_MS = 2000
# As many workers broken by a job alone are no chance. A little less than 2: shares of evidence are rounded.
ENOUGH_EVIDENCE = 1.99
# How many heads of the queue are passed over at most, where the workers with room are those that they have tried.
PASSED_OVER_AT_MOST = 16
# How long a worker rests that has no room or cannot be reached: so long at first, doubled as long as it goes on saying
# so, up to the second one.
REST_FIRST_MS = 20
REST_MAX_MS = 500
# An attempt that has not been turned away for so long has been taken.
SILENCE_MS = 500
# What a death says of its job where workers die under other jobs at the same moment: most likely nothing. With it a job
# that dies three times within one outage is not convicted.
OUTAGE_SHARE = 0.3
# How many of the latest deaths are looked at for that.
DEATHS_LOOKED_AT = 16
# The cap of a worker that may get one job, fleet-wide, as the trial of its breaker.
TRIAL = -1
# With `random`, the jobs of one call share a random number, and this factor sets their starting places apart. It is a
# prime: a factor of 3 in it would send all jobs of a call to one of three workers.
SPREAD = 40_507


class Strategy(StrEnum):
    """Where the search for a worker with room begins."""

    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    LEAST_LOADED = "least_loaded"


class Rules(msgspec.Struct, frozen=True):
    """What every call of one configuration has in common."""

    strategy: Strategy = Strategy.ROUND_ROBIN
    max_waiting: int = 10_000
    failures: int = 5
    base_ms: int = 30_000
    max_ms: int = 300_000
    max_ejected_percent: float = 50.0
    budget_percent: float = 20.0
    budget_per_second: float = 10.0
    quarantine_ms: int = 300_000


def configured_rules(settings: Settings) -> Rules:
    """Return what config.yaml wants the scheduler to go by."""
    return Rules(
        strategy=Strategy(settings.routing_strategy),
        max_waiting=settings.queue.max_waiting,
        failures=settings.breaker.failures,
        base_ms=int(settings.breaker.base_seconds * 1000),
        max_ms=int(settings.breaker.max_seconds * 1000),
        max_ejected_percent=settings.breaker.max_ejected_percent,
        budget_percent=settings.retry.budget_percent,
        budget_per_second=settings.retry.budget_per_second,
        quarantine_ms=int(settings.quarantine_seconds * 1000),
    )


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """A job that wants a lease for `bound_ms`, and waits for it `wait_ms` at most.

    `ticket` 0: a new one is taken. With a ticket of its own, as on a retry, a job keeps its place in the line.
    `retry_of` names the job, by a hash of what it sends, where this is a new attempt: those are counted.
    """

    number: int
    bound_ms: int
    wait_ms: int
    ticket: int = 0
    tried: tuple[str, ...] = ()
    retry_of: str = ""


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """What became of a lease. `is_over` False: the worker still runs the job, so the lease stays to its moment.

    `job` names the job as `Arrival.retry_of` does, where the blame may be its own (DIED, ERROR) or is lifted (OK).
    `cause` is prose without its subject, such as `returned 503: Service Unavailable`; where the attempt ejects its
    worker, that is why.
    `ms` is how long the worker wants to rest (BUSY; 0: it does not say), how long connecting took (AWAY), or how long
    the attempt ran (DIED). After DOUBT the same lease is told of once more when more is known: ERROR or NONE.
    """

    url: str
    number: int
    blame: Blame
    is_over: bool = True
    job: str = ""
    cause: str = ""
    ms: int = 0


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A lease that its process holds, for `left_ms` yet: set again where Redis has lost it."""

    url: str
    number: int
    left_ms: int


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """A grant that came through the grant list, taken up for `bound_ms`."""

    url: str
    number: int
    bound_ms: int


class Check(msgspec.Struct, frozen=True, array_like=True):
    """A health check that wants a lease for `bound_ms` on just this worker, routable or not: granted or refused."""

    number: int
    url: str
    bound_ms: int


class Beat(msgspec.Struct, frozen=True, array_like=True):
    """A heartbeat and what a process checks with it: whether its oldest jobs still wait, at times all that it holds.

    `is_return` after a time without the redis: leases of this process that it does not hold are dropped, be they given
    by a call whose reply was lost, or ended while nobody could be told.
    """

    running: int = 0
    waiting: int = 0
    oldest: tuple[int, ...] = ()
    held: tuple[Held, ...] = ()
    is_return: bool = False


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that one process has to say at one moment.

    `fleet_print` is sent once after the process saw the fleet change: it names what it saw, so that the first of all
    processes has the plan made anew and the others do not. `seed` feeds the `random` strategy.
    """

    process: str
    arrived: tuple[Arrival, ...] = ()
    ended: tuple[Ended, ...] = ()
    claims: tuple[Claim, ...] = ()
    left: tuple[int, ...] = ()
    checks: tuple[Check, ...] = ()
    beat: Beat | None = None
    fleet_print: str = ""
    seed: int = 0


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """A lease for the job `number` on the worker at `url`."""

    number: int
    url: str
    ticket: int


class Reply(msgspec.Struct, frozen=True):
    """What the scheduler answers. `has_fleet` False: no sidecar has written, and nothing was done.

    `queued` gives numbers and their tickets in turn; `refused` had no place in the queue, or, as checks, no room;
    `exhausted` have tried every worker; `lost` claims came too late; `missing` jobs are not in the queue any more;
    `unfunded` retries are more than the fleet's budget; `quarantined` ones are of jobs that break workers.
    `routable` counts the workers that may get jobs, `away` those of them that cannot be reached; jobs wait where these
    are all. `waiting` counts all processes' waiting jobs. `settles`: the memory began empty, and wants to be told
    what runs. In `look_in_ms` a worker that rests may get a job, if somebody calls; 0: there is none.
    """

    has_fleet: bool = True
    routable: int = 0
    away: int = 0
    look_in_ms: int = 0
    processes: int = 0
    granted: tuple[Grant, ...] = ()
    queued: tuple[int, ...] = ()
    refused: tuple[int, ...] = ()
    exhausted: tuple[int, ...] = ()
    claimed: tuple[int, ...] = ()
    lost: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    unfunded: tuple[int, ...] = ()
    quarantined: tuple[int, ...] = ()
    waiting: int = 0
    settles: bool = False
