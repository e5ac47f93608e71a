"""The Redis schema: every key, its type, its writer and what it holds.

Each key has one kind of writer, so that intent, observation and usage never overwrite each other. docs/redis.md shows
SCHEMA as a table, the Lua scripts take their names from it, and a test holds all of them and a live Redis equal.
"""

from dataclasses import dataclass

# The version of the schema that this program reads and writes. It grows when programs of two releases could
# misunderstand each other.
SCHEMA_VERSION = 2
# So many events are kept, and up to a hundred more, because whole blocks of the stream are dropped.
EVENTS_KEPT = 10_000


@dataclass(frozen=True, slots=True)
class Key:
    """One row of the schema.

    `name` has the default prefix. `<url>` stands for a worker's URL, `<name>` for a tenant's name, `<job>` for a hash.
    """

    name: str
    type: str
    writer: str
    holds: str


SCHEMA = (
    Key("sfr:workers", "set", "sidecar", "URLs of the fleet"),
    Key(
        "sfr:worker:<url>",
        "hash",
        "sidecar",
        "health, since, checked_at (ISO 8601), latency_ms, failures, successes (checks in a row), last_error, weight, "
        "max_concurrency, source, labels, languages (with commas between), memory_mb, speed (1: as the fleet's median)",
    ),
    Key("sfr:ticket", "string", "routers", "the round-robin counter: one atomic INCR or INCRBY"),
    Key(
        "sfr:leases:<url>",
        "zset",
        "routers; the sidecar for deep checks",
        "running leases, scored by the moment they end at the latest (Unix ms): `process:number`, or "
        "`process:number tenant MB` for a job of a tenant or with memory",
    ),
    Key(
        "sfr:running:<tenant>",
        "zset",
        "routers",
        "that tenant's running leases on all workers, by the same names and scores",
    ),
    Key(
        "sfr:queue",
        "zset",
        "routers",
        "pending jobs of the tenant `default` that run on any worker: `process:number`, in order of arrival (scored by "
        "ticket)",
    ),
    Key(
        "sfr:queue:<line>",
        "zset",
        "routers",
        "the same for another tenant or pool: the line `pool/tenant`",
    ),
    Key(
        "sfr:waiting",
        "hash",
        "routers",
        "what each pending job of all lines asks for: bound (ms), deadline (Unix ms), workers it has tried, `@` since "
        "when (Unix ms), memory (MB), `tenant/pool`",
    ),
    Key(
        "sfr:lines",
        "zset",
        "routers",
        "`tenant/pool` of all lines with pending jobs but `sfr:queue`; while several wait, scored by the ticket of the "
        "line's head",
    ),
    Key(
        "sfr:turns:<room>",
        "zset",
        "routers",
        "lines that may go but `sfr:queue`, while several wait: `ticket tenant/pool`; the first one has the turn",
    ),
    Key(
        "sfr:aging",
        "zset",
        "routers",
        "`tenant/pool`, scored by the moment at which the line's head will have waited for `queue.aging` (Unix ms)",
    ),
    Key(
        "sfr:aged:<room>",
        "zset",
        "routers",
        "`tenant/pool` of lines whose heads have waited for longer, scored by priority",
    ),
    Key(
        "sfr:order:<line>",
        "zset",
        "routers",
        "the jobs of the line `tenant/pool`, if they go longest first, by place: -size (ms) and a fraction by ticket; "
        "far below, by ticket, those that go before all",
    ),
    Key(
        "sfr:patience",
        "zset",
        "routers",
        "`process:number tenant/pool` of the same jobs, scored by the moment from which each goes before all (Unix ms)",
    ),
    Key(
        "sfr:grants:<process>",
        "list with TTL",
        "routers",
        "leases given to pending jobs of that process, which has to claim them; notes of other processes, as JSON "
        "objects",
    ),
    Key(
        "sfr:reuse:<job>",
        "string with TTL",
        "routers",
        "of identical jobs (by a hash of 128 bits) that share one run: until when (Unix ms); then `@` and the process "
        "that has it and those that wait for it, or `=` and the answer as JSON, or `-` if each is to run by itself",
    ),
    Key(
        "sfr:reused",
        "zset",
        "routers",
        "`job bytes` of the answers in `sfr:reuse:<job>`, scored by the moment at which each is dropped (Unix ms)",
    ),
    Key("sfr:reused:bytes", "string", "routers", "the sum of these bytes, at most `reuse.max_mb`"),
    Key(
        "sfr:orphans:<job>",
        "zset with TTL",
        "routers",
        "what jobs with this key (128 bits) have left behind whose clients have gone, scored by ticket: until when it "
        "is kept (Unix ms), the ticket, and for a run its lease `process:number`",
    ),
    Key(
        "sfr:answer:<job>",
        "string with TTL",
        "routers",
        "a worker's answer (msgpack, at most 1 MB) on its way from the process that has it to one whose job it answers",
    ),
    Key(
        "sfr:breaker:<url>",
        "hash with TTL until ejected",
        "routers",
        "failures (in a row), last_error_of (a job), times (ejected), ejected_until (Unix s), trial, cause (of the "
        "last ejection); absent for a worker without trouble",
    ),
    Key(
        "sfr:ejected",
        "zset",
        "routers",
        "URLs that the breaker has ejected, scored by the end of the ejection (Unix ms)",
    ),
    Key(
        "sfr:rests",
        "hash",
        "routers",
        "workers that turn jobs away because they have no room (429) or are out of reach: how many jobs each may run, "
        "until when (Unix ms), whether the rest is over, the last rest (ms), whether the worker is out of reach, in "
        "how many ms it takes a job",
    ),
    Key(
        "sfr:starts",
        "hash",
        "routers",
        "by URL: `out` for a worker that was healthy and is unhealthy or ejected; for one that has come back, since "
        "when (Unix ms), how many jobs it may run, when it may run more (Unix ms)",
    ),
    Key("sfr:finished", "zset", "routers", "URLs, scored by the time of the last job that ended well there (Unix ms)"),
    Key(
        "sfr:budget",
        "hash",
        "routers",
        "the budget for retries: saved (retries), tickets (counted so far), filled_at (Unix ms)",
    ),
    Key(
        "sfr:hedges",
        "hash",
        "routers",
        "the budget for second runs, where `hedge` is enabled: the same fields",
    ),
    Key(
        "sfr:quarantine",
        "zset",
        "routers",
        "jobs that break workers, by hash, scored by the end of the quarantine (Unix ms)",
    ),
    Key(
        "sfr:suspect:<job>",
        "hash with TTL",
        "routers",
        "the evidence that this job breaks workers, by URL: 1 if it ran alone, and the time of death (Unix ms)",
    ),
    Key(
        "sfr:deaths",
        "zset with TTL",
        "routers",
        "`job URL` of connections that have just died, scored by the time (Unix ms): workers that die together die of "
        "a cause outside",
    ),
    Key(
        "sfr:broken:<url>",
        "zset with TTL",
        "routers",
        "leases whose connections have just died on this worker, scored by the time (Unix ms)",
    ),
    Key(
        "sfr:drain",
        "set",
        "operators and agents, by CLI or API",
        "URLs of workers that get no new job; the sidecar corrects another spelling",
    ),
    Key(
        "sfr:intent",
        "hash",
        "operator, by CLI or API",
        "`weight <url>` and `max_concurrency <url>` as set at run time: they win over the worker's own",
    ),
    Key(
        "sfr:tenants",
        "hash",
        "sidecar",
        "each tenant's rule as JSON, by name: config.yaml's, with what is set at run time over it; absent fields have "
        "their defaults, and `default` is for tenants that are not in here",
    ),
    Key(
        "sfr:tenants:intent",
        "hash",
        "operator, by CLI or API",
        "what is set of a tenant at run time, by name, as JSON of these fields alone: it wins over config.yaml",
    ),
    Key("sfr:registered", "set", "agents, by API", "URLs of the workers that registered themselves"),
    Key(
        "sfr:registered:<url>",
        "hash with TTL",
        "agents, by API",
        "weight, max_concurrency, labels, languages, memory_mb; the worker stays as long as this key, without TTL "
        "until it is removed",
    ),
    Key(
        "sfr:process:<id>",
        "hash with TTL",
        "that router process",
        "heartbeat (Unix s), leases, waiting, notes (1: the process reads notes)",
    ),
    Key("sfr:processes", "zset", "routers", "living router processes, scored by their last heartbeat (Unix ms)"),
    Key(
        "sfr:plan",
        "hash",
        "routers",
        "each routable worker's cap, weight and places in the ring; made anew at each change",
    ),
    Key(
        "sfr:plan:head",
        "hash",
        "routers, stale by the sidecar",
        "ring (its length), workers, strategy, print (of the fleet it was made for), settles_at (Unix ms), stale, "
        "resting and away (how many workers), rules (whether tenants have any), top_priority (of all rules), schema, "
        "rooms (how many besides that of all workers), memory (whether any worker counts it), "
        "shared (whether there are tenants), turns (whether several lines wait), order (whether the jobs of any tenant "
        "go longest first), well (whether the workers are healthy), behind (the length of the slow workers' ring), "
        "starting (how many workers have come back and have not yet all their slots), keyed_until (Unix ms: until then "
        "arrivals are to have keys), made (a name that no other plan has), pools (how many are open)",
    ),
    Key("sfr:room", "zset", "routers", "the workers with a free slot, by place in the ring or by load"),
    Key("sfr:room:<room>", "zset", "routers", "the same for the workers of some pools"),
    Key(
        "sfr:pools",
        "hash",
        "routers",
        "by pool: its room, the length of its ring, how many workers it has, a print of them, the length of its slow "
        "workers' ring; `sfr:room` is room 0",
    ),
    Key("sfr:places", "hash", "routers", "by URL: the worker's places in the rings of other rooms, `room:places`"),
    Key("sfr:rounds", "hash", "routers", "the round-robin counters of other rooms, by the print of their workers"),
    Key("sfr:memory", "hash", "routers", "by URL: the memory of the workers that may get jobs and count it (MB)"),
    Key("sfr:reserved", "hash", "routers", "by URL: the line, `tenant/pool`, whose first job waits for its memory"),
    Key("sfr:lapse", "zset", "routers", "workers with leases, scored by the earliest end of a lease (Unix ms)"),
    Key(
        "sfr:stats",
        "hash",
        "routers",
        "counts of all routers: jobs, errors, attempts, retries; jobs that took up to some seconds: le_0.05 …; in the "
        "same way waits for a lease: wait_le_0.05 …",
    ),
    Key(
        "sfr:stats:<url>",
        "hash with TTL",
        "routers",
        "counts of all routers for this worker: jobs (attempts that ended), failures, busy_ms (their time together)",
    ),
    Key(
        "sfr:tenant:<name>",
        "hash with TTL",
        "routers",
        "counts of all routers for this tenant: jobs, failures (jobs without a result), busy_ms (of all its attempts), "
        "queue_ms (of all its waits), adopted (jobs that got what others had left behind), reused (jobs with the "
        "answers of identical ones), saved_ms (of their runs)",
    ),
    Key(
        "sfr:tenants:known",
        "zset",
        "routers",
        "names of the tenants with counts, by the last ones' time (Unix ms): at most 1,000; more count as `other`, "
        "which is not here",
    ),
    Key(
        "sfr:sizes",
        "hash with TTL",
        "routers",
        "how long jobs take on a worker of normal speed, by the hash of what they have in common: the mean (ms), and "
        "for how many sizes it counts; in the same way the median of each tenant",
    ),
    Key("sfr:sizes:used", "zset with TTL", "routers", "the same hashes, scored by the last lesson (Unix ms)"),
    Key(
        "sfr:speeds",
        "hash with TTL",
        "routers",
        "by URL, of attempts whose size was known: the sum of ln(time / size), of its squares, their number, as all "
        "three have faded until this moment (Unix ms)",
    ),
    Key(
        "sfr:events",
        "stream",
        "routers, sidecars, and `sfr --redis`",
        "what has happened, at most some 10,000 events: kind, subject (a worker, tenant, process or host), text, by "
        "(whose doing), more (JSON)",
    ),
    Key(
        "sfr:events:counts",
        "hash",
        "routers, sidecars, and `sfr --redis`",
        "by kind, how many events have been written",
    ),
    Key(
        "sfr:failures",
        "stream",
        "routers",
        "the last 500 failed jobs: ago_ms (how long before the entry was written the job had ended), clock_ms (its end "
        "by its process' clock), job (JSON: whose it was, what its client got, each attempt's worker and cause; no "
        "code, no stdin, no output)",
    ),
    Key(
        "sfr:history:hour",
        "list with TTL",
        "the leading sidecar",
        "the last hour in steps of 10 s, as JSON lists: begins (Unix s), throughput, running, waiting, p50_ms, p99_ms, "
        "queue_p50_ms, queue_p99_ms, errors, retries, worker-seconds by tenant",
    ),
    Key(
        "sfr:history:day",
        "list with TTL",
        "the leading sidecar",
        "the last 24 hours in steps of 1 min, in the same way",
    ),
    Key(
        "sfr:history:mark",
        "string with TTL",
        "the leading sidecar",
        "the counts with which the next steps of both have begun, as JSON: a new leader goes on from these",
    ),
    Key("sfr:sidecar", "string with TTL", "the leading sidecar", "the leader's fencing token and name"),
    Key(
        "sfr:fleet",
        "hash",
        "sidecar",
        "token (the last fencing token given), born (when this memory began, Unix µs), written_at, changed_at (the "
        "last change of membership or health; ISO 8601), tenants_at (the last change of a tenant's rule, Unix µs), "
        "schema (the version of these keys; absent: 1)",
    ),
)
