"""The settings: what a valid configuration is, and each key's default. README's table explains the keys.

Pure values: config.py reads them from config.yaml, and tells a bad one.
"""

import re
import ssl
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from router.policy.allowed import rule

# A weight is a number of turns in the ring: 100 tells the slowest from the fastest worker, and bounds the ring.
MAX_WEIGHT = 100

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_HOST = re.compile(rf"{_NAME.pattern}|\[[0-9A-Fa-f:.]+\]")
_PORTS = 2**16


def worker_url(text: str) -> str:
    """Return `text` in the one form by which a worker is known everywhere: no trailing slash, host in lower case.

    >>> worker_url("HTTP://Server1:8080/")
    'http://server1:8080'

    Raises PydanticCustomError (a ValueError) where no job could be sent to such an address.
    """
    wrong = PydanticCustomError("worker_url", "expected a URL such as http://server1:8080")
    if not text.isascii() or any(character <= " " for character in text):
        raise wrong
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise wrong from error
    host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or port == 0:
        raise wrong
    if parts.query or parts.fragment:
        raise PydanticCustomError("worker_url", "expected a URL without ? or #")
    path = parts.path.rstrip("/")
    if path.endswith("/run_code"):
        raise PydanticCustomError("worker_url", "expected the worker's address without /run_code")
    return f"{parts.scheme}://{parts.netloc.lower()}{path}"


def _redis_url(text: str) -> str:
    parts = urlsplit(text)
    wanted = {
        "redis": bool(parts.netloc),
        "rediss": bool(parts.netloc),
        "unix": bool(parts.path),
        "redis+sentinel": bool(parts.netloc and parts.path.strip("/")),
    }
    if wanted.get(parts.scheme):
        return text
    example = "host1:26379,host2:26379/mymaster/0" if parts.scheme == "redis+sentinel" else "localhost:6379/0"
    scheme = parts.scheme if parts.scheme in wanted else "redis"
    raise PydanticCustomError("redis_url", "expected a URL such as {url}", {"url": f"{scheme}://{example}"})


class _Settings(BaseModel):
    # Strict, because YAML has types: `timeout: "5"` is a slip that should be said, not guessed at.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


WorkerUrl = Annotated[str, AfterValidator(worker_url)]
PositiveSeconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]


class WorkerSettings(_Settings):
    """One worker of the fleet, as config.yaml names it."""

    url: WorkerUrl
    weight: Annotated[int, Field(ge=1, le=MAX_WEIGHT)] = 1
    max_concurrency: Count | None = None


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


class RedisSettings(_Settings):
    """Where the shared memory is, and what its keys begin with."""

    url: Annotated[str, AfterValidator(_redis_url)] = "redis://localhost:6379/0"
    prefix: Annotated[str, Field(min_length=1, pattern=r"^[^\s]+$")] = "sfr"
    cluster: bool = False

    @model_validator(mode="after")
    def _shares_one_slot(self) -> Self:
        # Redis Cluster hashes what stands in braces: all keys of one fleet must share a slot.
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


class TlsSettings(_Settings):
    """How an https:// worker proves who it is: by the system's CAs, by those in the file `ca`, or not at all."""

    ca: Annotated[str, Field(min_length=1), AfterValidator(_ca_file)] | None = None
    verify: bool = True

    def context(self) -> ssl.SSLContext:
        """Return what a connection to a worker is made with."""
        context = ssl.create_default_context(cafile=self.ca)
        if not self.verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def _dns_name(text: str) -> str:
    name, _, port = text.rpartition(":")
    if not _NAME.fullmatch(name) or not port.isdigit() or not 0 < int(port) < _PORTS:
        raise PydanticCustomError("dns_name", "expected name:port such as sandbox-workers:8080")
    return text


class DiscoverSettings(_Settings):
    """Where workers are found that nobody names one by one: `dns`, a name:port with an address for each of them."""

    dns: Annotated[str, AfterValidator(_dns_name)] | None = None


def _allowed(text: str) -> str:
    try:
        rule(text)
    except ValueError as error:
        wanted = "expected a network such as 10.0.0.0/8 or a host pattern such as *.sandbox.svc ({reason})"
        raise PydanticCustomError("allowed", wanted, {"reason": str(error)}) from error
    return text


class AdminSettings(_Settings):
    """Who may steer the fleet without the admin token, and what may be added to it at run time."""

    allow_loopback: bool = False
    allowed_workers: Annotated[
        tuple[Annotated[str, AfterValidator(_allowed)], ...],
        BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
    ] = ()


class HealthCheckSettings(_Settings):
    """How the sidecar asks a worker whether it is well, and how many answers change its mind."""

    path: Annotated[str, Field(pattern=r"^/[!-~]*$")] = "/v1/ping"
    timeout: PositiveSeconds = 5.0
    rise: Count = 1
    fall: Count = 2
    deep: bool = False
    deep_every: Count = 4


class QueueSettings(_Settings):
    """How long a job waits for a worker with room, and how many may wait."""

    timeout: PositiveSeconds = 60.0
    max_waiting: Annotated[int, Field(ge=0)] = 10_000


class BreakerSettings(_Settings):
    """When a worker that fails job after job is left alone, and for how long."""

    failures: Count = 5
    base_seconds: PositiveSeconds = 30.0
    max_seconds: PositiveSeconds = 300.0
    max_ejected_percent: Annotated[float, Field(ge=0, le=100)] = 50.0


class RetrySettings(_Settings):
    """How often one job is tried, and how many retries the whole fleet can bear."""

    attempts: Count = 3
    sandbox_error: Annotated[int, Field(ge=0)] = 1
    budget_percent: Annotated[float, Field(ge=0)] = 20.0
    budget_per_second: Annotated[float, Field(ge=0)] = 10.0


class BatchSettings(_Settings):
    """How many jobs of one batch may be under way at once, waiting for room included."""

    max_in_flight: Count = 64


ErrorStatus = Annotated[int, Field(ge=400, le=599)]


class ErrorStatusSettings(_Settings):
    """Which status the router's own errors have: clients differ in what they try again."""

    no_workers: ErrorStatus = 503
    all_failed: ErrorStatus = 503
    queue_full: ErrorStatus = 503
    queue_timeout: ErrorStatus = 504


class Settings(_Settings):
    """All of config.yaml. Times are in seconds; README's table explains each key."""

    workers: Annotated[
        tuple[Annotated[WorkerSettings, BeforeValidator(_from_bare_url)], ...],
        BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value),
        AfterValidator(_unlike),
    ] = ()
    workers_file: Annotated[str, Field(min_length=1)] | None = None
    discover: DiscoverSettings = DiscoverSettings()
    default_max_concurrency: Count | None = None
    health_check_interval: PositiveSeconds = 30.0
    timeout: PositiveSeconds = 300.0
    job_grace: PositiveSeconds = 10.0
    client_budget: Literal["none", "job"] = "none"
    routing_strategy: Literal["round_robin", "random", "least_loaded"] = "round_robin"
    queue: QueueSettings = QueueSettings()
    breaker: BreakerSettings = BreakerSettings()
    retry: RetrySettings = RetrySettings()
    quarantine_seconds: PositiveSeconds = 300.0
    batch: BatchSettings = BatchSettings()
    error_status: ErrorStatusSettings = ErrorStatusSettings()
    redis: RedisSettings = RedisSettings()
    health_check: HealthCheckSettings = HealthCheckSettings()
    tls: TlsSettings = TlsSettings()
    admin: AdminSettings = AdminSettings()
    api_keys: Annotated[str, Field(min_length=1)] | None = None
    max_body_mb: Annotated[float, Field(gt=0)] = 128.0
    max_buffered_mb: Annotated[float, Field(gt=0, validate_default=True)] = 1024.0
    client_body_timeout: PositiveSeconds = 30.0
    client_read_timeout: PositiveSeconds = 60.0

    @field_validator("max_buffered_mb")
    @classmethod
    def _takes_the_largest_body(cls, buffered_mb: float, info: ValidationInfo) -> float:
        body_mb = info.data.get("max_body_mb", 0.0)  # absent where it is itself at fault
        if buffered_mb < body_mb:
            wanted = "expected at least max_body_mb, which is {body_mb}"
            raise PydanticCustomError("max_buffered_mb", wanted, {"body_mb": f"{body_mb:g}"})
        return buffered_mb
