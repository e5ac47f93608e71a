"""The settings: each key of config.yaml with its default, its limits and its meaning.

These are pure values. load.py reads them from config.yaml, and reports a bad configuration.
"""

import re
import ssl
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from router.config.addresses import masked, origin, otlp_url, redis_url
from router.config.allowlist import rule
from router.config.bounds import MAX_ADOPT_S, MAX_COUNT
from router.config.presets import PresetName, with_preset
from router.config.scaling import ScalingSettings
from router.config.section import (
    FROM_LIST,
    MAX_MB,
    Budget,
    Count,
    FilePath,
    PositiveSeconds,
    Seconds,
    Section,
    matching,
)
from router.config.tenants import TenantsByName
from router.config.workers import AuthFile, DiscoverSettings, MemoryMb, WorkerSettings
from router.policy import endpoints
from router.policy.strategy import SLOWER_THAN, Strategy

_LONGEST_PATH = 256


def _from_bare_url(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


def _unlike(workers: tuple[WorkerSettings, ...]) -> tuple[WorkerSettings, ...]:
    seen: set[str] = set()
    for worker in workers:
        if worker.url in seen:
            raise PydanticCustomError(
                "duplicate_url", "expected each URL once; {url} is given twice", {"url": worker.url}
            )
        seen.add(worker.url)
    return workers


class RedisSettings(Section):
    """Where Redis is, and the prefix of its keys."""

    url: Annotated[str, AfterValidator(redis_url)] = "redis://localhost:6379/0"
    """`redis://`, `rediss://`, `unix://`, or `redis+sentinel://host1:26379,host2:26379/mymaster/0` (`user:password@`
    before the hosts is Redis' own, `?sentinel_password=` the Sentinels')"""
    prefix: Annotated[str, matching(r"[^\s\x00-\x1f\x7f\ud800-\udfff]{1,200}", "up to 200 characters, no blanks")] = (
        "sfr"
    )
    """what all keys begin with; two fleets share a Redis by two prefixes"""
    cluster: bool = False
    """Redis Cluster; the prefix then needs a hash tag, such as `{sfr}`, which puts the fleet into one slot"""

    @model_validator(mode="after")
    def _shares_one_slot(self) -> Self:
        # Redis Cluster hashes only the part in braces, and all keys of one fleet must share a slot.
        if self.cluster and not re.match(r"[^{]*\{[^}]+\}", self.prefix):
            raise PydanticCustomError(
                "prefix", "expected a prefix with a hash tag, such as {sfr}, where cluster is true"
            )
        if self.cluster and not self.url.startswith(("redis://", "rediss://")):
            raise PydanticCustomError("cluster", "expected a redis:// or rediss:// url where cluster is true")
        return self


def _ca_file(path: str) -> str:
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        reason = "it holds none" if isinstance(error, ssl.SSLError) else error.strerror
        raise PydanticCustomError(
            "ca_file", "expected a file of PEM certificates: {reason}", {"reason": reason}
        ) from error
    return path


class TlsSettings(Section):
    """How the certificate of an https:// worker is checked: by the system's CAs, by the file `ca`, or not at all."""

    ca: Annotated[FilePath, AfterValidator(_ca_file)] | None = None
    """a file of PEM certificates: the CA that signed the certificates of `https://` workers; none: the system's CAs.
    The sidecar, too, reads `tls` at its start"""
    verify: bool = True
    """false: any certificate is accepted"""
    # Read together with the settings. A process that inherits them makes its context later, when the file may be bad or
    # gone.
    _ca_pem: str | None = PrivateAttr(None)

    def model_post_init(self, _: object) -> None:
        """Read the CA file."""
        if self.ca is not None:
            self._ca_pem = (
                Path(self.ca).read_bytes().decode("ascii", "ignore")
            )  # comments in the file may have other characters

    def context(self) -> ssl.SSLContext:
        """Return the TLS context for connections to workers."""
        context = ssl.create_default_context(cadata=self._ca_pem)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _allowed(text: str) -> str:
    try:
        rule(text)
    except ValueError as error:
        wanted = "expected a network such as 10.0.0.0/8 or a host pattern such as *.sandbox.svc ({reason})"
        raise PydanticCustomError("allowed", wanted, {"reason": masked(str(error))}) from error
    return text


class AdminSettings(Section):
    """Who may change the fleet without the admin token, and which workers may be added to it at run time."""

    allow_loopback: bool = False
    """true: if no admin token is set, users of this host may change the fleet, over loopback or a Unix socket"""
    allowed_workers: Annotated[tuple[Annotated[str, AfterValidator(_allowed)], ...], FROM_LIST] = ()
    """which workers may be added at run time: networks for addresses (`10.0.0.0/8`), patterns for names (`node*`,
    `*.sandbox.svc`); a `*` stands for a part of one label, except at the beginning of the pattern"""


class HealthCheckSettings(Section):
    """How the sidecar checks a worker, and how many checks in a row change the worker's health."""

    path: Annotated[str, matching(r"/[!-~]*", "a path such as /v1/ping")] = "/v1/ping"
    """the path of a check; a good answer is 200 and `"pong"`, with or without quotes"""
    timeout: PositiveSeconds = 5.0
    """how long a check may take, and the job of a deep check"""
    rise: Count = 1
    """good checks in a row until an unhealthy worker is healthy"""
    fall: Count = 2
    """failed checks in a row until a healthy worker is unhealthy"""
    deep: bool = False
    """true: some checks also run `print(1)` on the worker, under a lease; an unhealthy worker must run it to become
    healthy"""
    deep_every: Count = 4
    """every how many checks one is deep"""


class QueueSettings(Section):
    """How long a job may be pending, without a free slot on any worker, and how many jobs may be."""

    timeout: PositiveSeconds = 60.0
    """how long a job may be pending; then it gets 504 with Retry-After"""
    max_waiting: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 10_000
    """how many jobs may be pending; the next one gets 503 at once"""
    without_workers: Seconds = 10.0
    """how long a job may be pending, within `timeout`, while no worker of the fleet or of its pool may get jobs, or
    none can be reached. Then it gets 503; 0: at once"""
    aging: PositiveSeconds = 30.0
    """once a job has been pending for longer, its tenant and all of higher priority share the slots by weight"""


class BreakerSettings(Section):
    """When a worker that fails job after job is ejected, and for how long."""

    failures: Count = 5
    """failed jobs in a row until a worker is ejected"""
    base_seconds: PositiveSeconds = 30.0
    """how long the first ejection lasts; doubled each time the trial job after it fails"""
    max_seconds: PositiveSeconds = 300.0
    """the longest ejection"""
    max_ejected_percent: Annotated[float, Field(ge=0, le=100)] = 50.0
    """the largest part of the fleet that may be ejected at once"""


class RetrySettings(Section):
    """How often one job is tried, and how many retries the whole fleet may make."""

    attempts: Count = 3
    """how often one job is tried, at most"""
    sandbox_error: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 1
    """how often a job is tried again after a `SandboxError`"""
    budget_percent: Annotated[float, Field(ge=0, le=MAX_COUNT)] = 20.0
    """the budget for retries, over the whole fleet: this share of its jobs, and `budget_per_second` besides"""
    budget_per_second: Annotated[float, Field(ge=0, le=MAX_COUNT)] = 10.0
    """the second part of the budget for retries: so many a second"""


class BatchSettings(Section):
    """How many jobs of one batch may be under way at once, and how far it is read ahead."""

    max_in_flight: Count = 64
    """how many jobs of one batch are under way at once, pending jobs included"""
    look_ahead_mb: Annotated[float, Field(ge=0, le=MAX_MB)] = 64.0
    """how far a batch is read ahead (MB) whose jobs begin in an order of their own (`order=longest_first`,
    `stop_on=failure`), within half of `max_buffered_mb`"""


class SizesSettings(Section):
    """What the router learns of how long jobs take."""

    max: Count = 100_000
    """of how many keys Redis keeps the size, fleet-wide: about 150 bytes each. The one used longest ago makes room"""


class HedgeSettings(Section):
    """Second runs of jobs whose first run is slow; see [Second runs](sooner.md#second-runs)."""

    enabled: bool = False
    """true: while nobody waits and a worker has a free slot, a job that runs on a slow worker, or has run for three
    times its expected time, gets one second run on a faster worker. The first final answer counts"""
    percent: Annotated[float, Field(gt=0, le=100)] = 2.0
    """how many second runs the whole fleet makes at most, as a share of its jobs"""
    slower_than: Annotated[float, Field(ge=1, le=100)] = SLOWER_THAN
    """a worker is slow if its jobs take more than so many times as long as on most workers. It gets a job only if no
    other worker can take it, also where `hedge` is not enabled"""


class ReuseSettings(Section):
    """How much memory answers may take that serve identical jobs (`tenants.NAME.reuse`)."""

    max_mb: Annotated[float, Field(gt=0, le=MAX_MB)] = 64.0
    """how much memory of Redis; those that would be dropped next make room for new ones"""


class TracesSettings(Section):
    """Where OpenTelemetry's spans go; the extra `traces` has to be installed for it."""

    endpoint: Annotated[str, AfterValidator(otlp_url)] | None = None
    """where spans are sent, by OTLP over HTTP: `http://collector:4318/v1/traces`; none: no spans are made"""


def _field(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_]{1,64}(\.[A-Za-z0-9_]{1,64}){0,3}", name):
        raise PydanticCustomError("field", "expected a field such as total_timeout or config.run_timeout")
    return name


class EndpointSettings(Section):
    """One endpoint of the workers: another time limit for one of SandboxFusion's, or a further one of a fork."""

    timeout: PositiveSeconds = 120.0
    """how long a worker may take to answer, if the body has no `limit`; then the job is tried on another worker"""
    method: Literal["GET", "POST"] | None = None
    """the method of its requests; none: SandboxFusion's own, for other endpoints POST"""
    limit: Annotated[str, AfterValidator(_field)] | None = None
    """the field of the JSON body that holds the job's own limit in seconds, such as `total_timeout` or
    `config.run_timeout`; the worker may take that and `job_grace`"""


def _endpoint_path(path: str) -> str:
    if not re.fullmatch(r"(/[A-Za-z0-9._~-]+){1,8}", path) or len(path) > _LONGEST_PATH:
        raise PydanticCustomError("endpoint", "expected a path such as /common_evaluate_batch")
    return path


def _fit(said: dict[str, EndpointSettings]) -> dict[str, EndpointSettings]:
    for path, its in said.items():
        if found := endpoints.flaw(path, its):
            raise PydanticCustomError("endpoint", "{path}: {found}", {"path": path, "found": found})
    return said


# By its name in config.yaml, although other values are read strictly.
RoutingStrategy = Annotated[Strategy, Field(strict=False), WithJsonSchema({"type": "string", "enum": list(Strategy)})]
ErrorStatus = Annotated[int, Field(ge=400, le=599)]


class ErrorStatusSettings(Section):
    """Which status the router's own errors have, because clients retry different ones."""

    no_workers: ErrorStatus = 503
    """the status if no worker is healthy, or none can be reached"""
    all_failed: ErrorStatus = 503
    """the status if every attempt failed"""
    queue_full: ErrorStatus = 503
    """the status if too many jobs are pending, or too many bodies are held"""
    queue_timeout: ErrorStatus = 504
    """the status if no worker had a free slot in time, or no result came in time"""


class Settings(Section):
    """All of config.yaml. Times are in seconds."""

    preset: PresetName = "none"
    """what [Clients](clients.md) advises for one kind of client, as the defaults of some keys. A key that is set wins
    over it"""
    workers: Annotated[
        tuple[Annotated[WorkerSettings, BeforeValidator(_from_bare_url)], ...],
        FROM_LIST,
        AfterValidator(_unlike),
    ] = ()
    """the fleet: each a URL, or `{url, weight, max_concurrency, labels, languages, memory_mb}`"""
    workers_file: FilePath | None = None
    """a file with one worker a line: host (port 8080), host:port or URL, with or without `/run_code`, and then what
    else is known of it: `weight=2 max_concurrency=8 label=gpu label=ib language=python memory_mb=64000`; `#` begins a
    comment"""
    discover: DiscoverSettings = DiscoverSettings()
    default_max_concurrency: Count | None = None
    """`max_concurrency` of the workers that have none of their own"""
    default_job_memory_mb: MemoryMb = 1024
    """how much memory (MB) a job counts for whose body sets no `memory_limit_MB`, on workers with `memory_mb`"""
    health_check_interval: PositiveSeconds = 30.0
    """seconds between two checks of a worker; the first is immediate"""
    timeout: PositiveSeconds = 300.0
    """how long a job may take in all, waiting and retries included"""
    job_grace: PositiveSeconds = 10.0
    """how much longer than the limits in its body a job may take on a worker"""
    endpoints: Annotated[
        dict[Annotated[str, AfterValidator(_endpoint_path)], EndpointSettings], AfterValidator(_fit)
    ] = Field({})
    """other time limits for SandboxFusion's endpoints (by default 120 s for /submit, 60 s for those that run no code),
    and further endpoints of its forks"""
    client_budget: Budget = "none"
    """how long clients wait; the router answers before that. `job+10`, or `job`: compile_timeout + run_timeout + 10 s,
    as verl waits; `12`: 12 s, whatever the job; `none`: for ever. The header `x-router-deadline-ms` wins"""
    adopt_seconds: Annotated[float, Field(ge=0, le=MAX_ADOPT_S)] = 10.0
    """for how long a job's place in the line, its run or its answer is kept for the next identical job of its tenant,
    after its client has had 504 or has hung up; 0: not at all"""
    routing_strategy: RoutingStrategy = Strategy.ROUND_ROBIN
    """`round_robin`: the workers in turn, by weight, full ones skipped; `random`: the first with a free slot from a
    random place on; `least_loaded`: the one with the fewest leases for its weight"""
    queue: QueueSettings = QueueSettings()
    tenants: TenantsByName = Field({})
    """whose jobs share the fleet: each tenant's weight, priority and limits, by its name; `default` is for all tenants
    that have no section here"""
    reuse: ReuseSettings = ReuseSettings()
    breaker: BreakerSettings = BreakerSettings()
    retry: RetrySettings = RetrySettings()
    quarantine_seconds: PositiveSeconds = 300.0
    """how long a job that breaks workers is refused"""
    slow_start: Annotated[float, Field(ge=0, le=3600)] = 10.0
    """over how many seconds a worker gets its slots back that was unhealthy or ejected; 0: all at once. It needs
    `max_concurrency`"""
    batch: BatchSettings = BatchSettings()
    sizes: SizesSettings = SizesSettings()
    hedge: HedgeSettings = HedgeSettings()
    scaling: ScalingSettings = ScalingSettings()
    error_status: ErrorStatusSettings = ErrorStatusSettings()
    redis: RedisSettings = RedisSettings()
    health_check: HealthCheckSettings = HealthCheckSettings()
    worker_auth: AuthFile | None = None
    """a file with one line such as `Authorization: Bearer KEY`: the header that workers want with jobs, pings and deep
    checks. Every worker without a `worker_auth` of its own gets it, also one that is added at run time"""
    tls: TlsSettings = TlsSettings()
    traces: TracesSettings = TracesSettings()
    admin: AdminSettings = AdminSettings()
    api_keys: FilePath | None = None
    """a file with the SHA-256 of each key that clients may send jobs with; `sfr key new NAME >> FILE` adds one"""
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(origin)], ...],
        FROM_LIST,
    ] = ()
    """other sites whose pages may send jobs, such as `https://lab.example:8443`; a page of any other site gets 403"""
    trusted_hosts: Annotated[
        tuple[Annotated[str, AfterValidator(_allowed)], ...],
        FROM_LIST,
    ] = ()
    """the names and addresses (patterns, networks) that a request's Host may have, besides loopback's; none: any. With
    local workers, `sfr up` allows those of its own host"""
    max_body_mb: Annotated[float, Field(gt=0, le=MAX_MB)] = 128.0
    """the largest request body (MB of 2^20 bytes); a larger one gets 413"""
    max_buffered_mb: Annotated[float, Field(gt=0, le=MAX_MB, validate_default=True)] = 1024.0
    """how many MB of request bodies each router process may hold (being read, pending, running); a request that does
    not fit gets 503. At least `max_body_mb`"""
    client_body_timeout: PositiveSeconds = 30.0
    """how long a client may take to send a request's head, and how many seconds its body may fall behind a pace of
    100 kB a second; then it gets 408"""
    client_read_timeout: PositiveSeconds = 60.0
    """how long a client may read nothing of its answer; then the connection is closed"""

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, said: object) -> object:
        return with_preset(said) if isinstance(said, dict) else said

    @field_validator("max_buffered_mb")
    @classmethod
    def _takes_the_largest_body(cls, buffered_mb: float, info: ValidationInfo) -> float:
        body_mb = info.data.get("max_body_mb", 0.0)  # absent if it is invalid itself
        if buffered_mb < body_mb:
            wanted = "expected at least max_body_mb, which is {body_mb}"
            raise PydanticCustomError("max_buffered_mb", wanted, {"body_mb": f"{body_mb:g}"})
        return buffered_mb
