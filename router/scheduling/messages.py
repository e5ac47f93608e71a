"""What one call of the scheduler carries and what it answers: the same for lua/scheduler.lua and its Python twin.

Times are in milliseconds: moments by Redis' own clock, or lengths of time. A process never sends its own time of day. A
lease is named by lease_name; within one process the number is enough.
"""

import msgspec

from router.config.settings import Settings
from router.policy.strategy import SLOWER_THAN, Strategy
from router.policy.tenants import DEFAULT
from router.policy.verdict import Blame

# A process without a heartbeat for this long is dead, and its pending jobs leave the queue.
PROCESS_TTL_MS = 2000
# A grant that its process does not claim within this time is taken back.
CLAIM_WITHIN_MS = 1000
# When Redis' memory begins empty, workers with a cap get no jobs for this long. Every process sees within a second that
# Redis is back, and hands in the leases that it holds with its next heartbeat.
SETTLE_MS = 2000
# Retries that are saved up run off over this time.
BUDGET_WINDOW_MS = 10_000
# So do second runs: those for the end of a batch are earned when its jobs come, which may be all at once.
HEDGE_WINDOW_MS = 600_000
# Connections to one worker that die within this time have died of one cause.
BROKEN_WITHIN_MS = 2000
# So many workers broken by one job alone are no coincidence. It is a little under 2: shares of evidence are rounded.
ENOUGH_EVIDENCE = 1.99
# At most so many jobs at the head of a line are passed over because they can have none of the workers with room: they
# have tried them, or take more memory. Then the other lines have their turns.
PASSED_OVER_AT_MOST = 16
# In all lines of one room, so many are passed over: that bounds the cost of a call.
PASSED_OVER_IN_ROOM = 16 * PASSED_OVER_AT_MOST
# A worker that has no room, or cannot be reached, rests for the first of these times. Each further rest is twice as
# long, up to the second one.
REST_FIRST_MS = 20
REST_MAX_MS = 500
# A worker has accepted an attempt if it has not turned it away within this time.
SILENCE_MS = 500
# The evidence of a death while workers die under other jobs, too: most likely the job is not the cause. A job that dies
# three times within one outage is not convicted.
OUTAGE_SHARE = 0.3
# So many of the latest deaths are read for that.
DEATHS_LOOKED_AT = 16
# A heartbeat looks after so many workers in the rooms of pools.
ROOMS_CORRECTED = 8
# Within a line that goes longest first: jobs of one size are told apart by tickets below this, and no job counts as
# larger. Jobs that go before all have their tickets less a number that is more than any size and any ticket. So each
# place is an exact number.
TICKETS_APART = 2**22
LARGEST_SIZE_MS = 2**30
BEFORE_ALL = 2**52
# One call puts at most so many jobs before all because they have waited for long enough.
HURRIED_AT_ONCE = 500
# One step of priority is more than any number of running jobs.
PRIORITY_STEP = 2**32
# The place of the first slow worker: more than a ring has places, and more than a worker has leases.
BEHIND = 2**32
# A worker that has come back gets more of its slots at most so often.
START_STEP_MS = 50
# When the last job ended well on a worker is written at most so often.
FINISHED_APART_MS = 100
# The cap of a worker that may get one job, fleet-wide, as the trial of its breaker.
TRIAL = -1


class Rules(msgspec.Struct, frozen=True):
    """What the scheduler goes by: the same in every call of one configuration. Defaults are those of config.yaml."""

    strategy: Strategy = Strategy.ROUND_ROBIN
    max_waiting: int = 10_000
    aging_ms: int = 30_000
    failures: int = 5
    base_ms: int = 30_000
    max_ms: int = 300_000
    max_ejected_percent: float = 50.0
    budget_percent: float = 20.0
    budget_per_second: float = 10.0
    quarantine_ms: int = 300_000
    hedge_percent: float = 0.0
    slow_start_ms: int = 10_000
    slower_than: float = SLOWER_THAN
    reuse_bytes: int = 2**26


def configured_rules(settings: Settings) -> Rules:
    """Return the rules that config.yaml sets."""
    return Rules(
        strategy=settings.routing_strategy,
        max_waiting=settings.queue.max_waiting,
        aging_ms=int(settings.queue.aging * 1000),
        failures=settings.breaker.failures,
        base_ms=int(settings.breaker.base_seconds * 1000),
        max_ms=int(settings.breaker.max_seconds * 1000),
        max_ejected_percent=settings.breaker.max_ejected_percent,
        budget_percent=settings.retry.budget_percent,
        budget_per_second=settings.retry.budget_per_second,
        quarantine_ms=int(settings.quarantine_seconds * 1000),
        hedge_percent=settings.hedge.percent if settings.hedge.enabled else 0.0,
        slow_start_ms=int(settings.slow_start * 1000),
        slower_than=settings.hedge.slower_than,
        reuse_bytes=int(settings.reuse.max_mb * 2**20),
    )


class Arrival(msgspec.Struct, frozen=True, array_like=True):
    """A job that asks for a lease of `bound_ms`, and waits for it `wait_ms` at most.

    `ticket` 0 takes a new ticket; a retry sends its own and keeps its place in the queue. `tried` are the URLs of the
    workers that it shall not get again. `retry_of` names the job, by a hash of its request, if this is a new attempt:
    the retry budget counts those. Else it is "". `tenant`, `pool` and `memory_mb` are those of Placement.
    """

    number: int
    bound_ms: int
    wait_ms: int
    ticket: int = 0
    tried: tuple[str, ...] = ()
    retry_of: str = ""
    tenant: str = ""
    pool: str = ""
    memory_mb: int = 0


def lease_name(process: str, number: int, tenant: str = "", memory_mb: int = 0) -> str:
    """Return the name of a lease in Redis; lua/context.lua names it alike.

    >>> lease_name("p", 1), lease_name("p", 1, "run-7"), lease_name("p", 1, memory_mb=512)
    ('p:1', 'p:1 run-7 0', 'p:1 default 512')
    """
    is_plain = tenant in {"", DEFAULT} and not memory_mb
    return f"{process}:{number}" if is_plain else f"{process}:{number} {tenant or DEFAULT} {memory_mb}"


class Wish(msgspec.Struct, frozen=True, array_like=True):
    """What the arriving job `number` asks for besides a lease; most jobs ask for no more.

    `size_ms` is how long the job is expected to take, if its tenant's jobs go longest first; else 0. `key` is the same
    for identical jobs of one tenant, "" for a job that shares no run. For `reuse_ms` the result of such a job will do;
    0: only a run whose client has left may be taken over. `is_hedge`: the job runs already; this second run gets a
    lease now or never, and only while no other job waits for the room.
    """

    number: int
    size_ms: int = 0
    key: str = ""
    reuse_ms: int = 0
    is_hedge: bool = False


class RunOver(msgspec.Struct, frozen=True, array_like=True):
    """The run of this process that jobs with this key share is over.

    For `ms` further jobs get its `answer`, or with "" each runs by itself. With `ms` 0 the run never came to its end:
    the next job has one of its own, which others share.
    """

    key: str
    ms: int = 0
    answer: str = ""


class SharedRun(msgspec.Struct, frozen=True, array_like=True):
    """The arriving job `number` gets no lease, because an identical one has a run.

    It gets that one's `answer`, or waits for the run that `process` has. `ticket` is its place in the queue, if it asks
    again.
    """

    number: int
    ticket: int
    process: str = ""
    answer: str = ""


NO_WISH = Wish(0)


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """How the attempt under a lease ended.

    `is_over` False: the worker still runs the job, so the lease stays until its moment. `job` names the job as
    `Arrival.retry_of` does, if it may be at fault itself (DIED, ERROR) or is cleared (OK). `cause` is prose without its
    subject, such as `returned 503: Service Unavailable`; it is shown if the attempt ejects its worker. `ms` is how long
    the worker asks to rest (BUSY; 0: it does not say), how long connecting took (AWAY), or how long the attempt ran
    (DIED). After DOUBT the same lease is sent once more when more is known: with ERROR or NONE. `tenant` and
    `memory_mb` are a part of the lease's name.
    """

    url: str
    number: int
    blame: Blame
    is_over: bool = True
    job: str = ""
    cause: str = ""
    ms: int = 0
    tenant: str = ""
    memory_mb: int = 0


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A lease that its process holds for `left_ms` more. It is set again if Redis has lost it."""

    url: str
    number: int
    left_ms: int
    tenant: str = ""
    memory_mb: int = 0


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """A process takes up a grant that came through its grant list, for `bound_ms` from now on."""

    url: str
    number: int
    bound_ms: int
    tenant: str = ""
    memory_mb: int = 0


class Check(msgspec.Struct, frozen=True, array_like=True):
    """A health check asks for a lease of `bound_ms` on just this worker. It is granted or refused; it never waits."""

    number: int
    url: str
    bound_ms: int


class Beat(msgspec.Struct, frozen=True, array_like=True):
    """A heartbeat: shows that the process lives, and compares what it knows with what the scheduler knows.

    `running` and `waiting` count its leases and its pending jobs. `oldest` are the pending jobs to look for; `held` are
    all its leases, in some heartbeats only. `is_return` is set after a time without Redis: leases of this process that
    are not in `held` are dropped. They were granted in a reply that never arrived, or ended while Redis was away.
    """

    running: int = 0
    waiting: int = 0
    oldest: tuple[int, ...] = ()
    held: tuple[Held, ...] = ()
    is_return: bool = False


class Orphan(msgspec.Struct, frozen=True, array_like=True):
    """What a job leaves behind whose client has gone: for `ms`, the next job that arrives with the same key gets it.

    That is the run under lease `number` of `process` ("": the one that calls), or with 0 the job's place in its line.
    `ticket` is the job's. With `ms` 0 the run is not to be had any more.
    """

    key: str
    ms: int
    ticket: int
    number: int = 0
    process: str = ""


class Adopted(msgspec.Struct, frozen=True, array_like=True):
    """The arriving job `number` gets what another job of the same key has left behind.

    That is the run under the lease `run` of `process`, and then no lease; or with "" a place, and the job waits for its
    lease under that ticket. `ticket` is the other job's.
    """

    number: int
    ticket: int
    process: str = ""
    run: int = 0


class Call(msgspec.Struct, frozen=True, omit_defaults=True):
    """All that one process has to say at one moment.

    `wishes` are those of the `arrived` that have any. `orphans` have been left behind, and for `keyed_ms` some may be:
    then all arrivals are to have keys. `runs_over` are those that jobs shared. `left` are pending jobs that wait no
    longer. `fleet_print` is sent once after the process saw the fleet change. It names what the process saw: the first
    process that sends it has the plan made anew, and the others do not. `seed` feeds the `random` strategy.
    """

    process: str
    arrived: tuple[Arrival, ...] = ()
    wishes: tuple[Wish, ...] = ()
    ended: tuple[Ended, ...] = ()
    claims: tuple[Claim, ...] = ()
    left: tuple[int, ...] = ()
    checks: tuple[Check, ...] = ()
    runs_over: tuple[RunOver, ...] = ()
    orphans: tuple[Orphan, ...] = ()
    keyed_ms: int = 0
    beat: Beat | None = None
    fleet_print: str = ""
    seed: int = 0


class PackedCall(Call, frozen=True):
    """A call on its way to the script, which reads a flat list in less time than lists of lists.

    If nothing but usual jobs have arrived, they are in `came`: for each its number, bound_ms, wait_ms, tenant and pool.
    If nothing but usual jobs have ended, and well, they are in `done`: for each its URL, number and tenant.
    """

    came: tuple[int | str, ...] = ()
    done: tuple[int | str, ...] = ()


def packed(call: Call) -> Call:
    """Return the call as the script reads it in the least time."""
    came: list[int | str] = []
    for job in call.arrived:
        if job.ticket or job.tried or job.retry_of or job.memory_mb:
            came = []
            break
        came += (job.number, job.bound_ms, job.wait_ms, job.tenant, job.pool)
    done: list[int | str] = []
    for end in call.ended:
        if end.blame is not Blame.OK or not end.is_over or end.job or end.memory_mb:
            done = []
            break
        done += (end.url, end.number, end.tenant)
    if not (came or done):
        return call
    return PackedCall(
        process=call.process,
        arrived=() if came else call.arrived,
        wishes=call.wishes,
        ended=() if done else call.ended,
        claims=call.claims,
        left=call.left,
        checks=call.checks,
        runs_over=call.runs_over,
        orphans=call.orphans,
        keyed_ms=call.keyed_ms,
        beat=call.beat,
        fleet_print=call.fleet_print,
        seed=call.seed,
        came=tuple(came),
        done=tuple(done),
    )


class Grant(msgspec.Struct, frozen=True, array_like=True):
    """A lease for the job `number` on the worker at `url`. `tenant` and `memory_mb` are a part of the lease's name."""

    number: int
    url: str
    ticket: int
    tenant: str = ""
    memory_mb: int = 0


class Reply(msgspec.Struct, frozen=True):
    """What the scheduler answers. `has_fleet` False: no sidecar has written the fleet, and nothing was done.

    `newer_schema`: the version of the keys in Redis, if it is one that this program does not know; nothing was done.

    Numbers of jobs: `queued` has each number with its ticket, in turn; `refused` found the queue full or, if they are
    checks, the worker; `exhausted` have tried every worker; claims that are `lost` came too late; `missing` jobs are
    not in the queue any more; `unfunded` retries exceed the fleet's budget; `quarantined` ones are of jobs that break
    workers; `crowded` ones found as many of their tenant's jobs pending as may be; `unpooled` ones need one pool more
    than there may be; `shared` ones have no run of their own; `adopted` ones get what other jobs have left behind;
    `unhedged` second runs do not happen. For `keyed_ms` arrivals are to have keys. `unreached` are the open pools of
    some workers none of which can be reached.

    Numbers of the fleet: `routable` workers may get jobs, and `away` of those cannot be reached; `processes` are alive
    (0 unless the call has a heartbeat); `waiting` jobs of all processes are pending. `settles`: Redis' memory began
    empty, and processes are to hand in their leases. After `look_in_ms` a worker that rests may get a job, if a process
    calls then; 0: there is none.
    """

    has_fleet: bool = True
    newer_schema: int = 0
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
    crowded: tuple[int, ...] = ()
    unpooled: tuple[int, ...] = ()
    unhedged: tuple[int, ...] = ()
    shared: tuple[SharedRun, ...] = ()
    unreached: tuple[str, ...] = ()
    adopted: tuple[Adopted, ...] = ()
    keyed_ms: int = 0
    waiting: int = 0
    settles: bool = False
