"""How the commands and the agent see and steer the fleet: through a router's API.

fleet/redis_fleet.py asks Redis itself instead. Every error is a Failed. Nothing heavy is imported here, because every
command waits for it.
"""

import json
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from pydantic import TypeAdapter, ValidationError

from router.api.schemas import (
    AVAILABLE,
    AdminTenant,
    AdminWorker,
    EventPage,
    FailedJobs,
    FleetCounts,
    FleetStatus,
    HealthStatus,
    History,
    Report,
    WorkerStatus,
)
from router.auth.admin_token import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE
from router.cli.failure import Exit, Failed
from router.config.addresses import masked
from router.config.flaws import place_of
from router.fleet.journal.failed_job import Search
from router.fleet.journal.model import Asked
from router.fleet.journal.points import Range
from router.fleet.stats import Usage
from router.http.reasons import reason

ANSWER_WITHIN_S = 10.0

_Value = TypeVar("_Value")


class Fleet(Protocol):
    """The fleet as a command sees and steers it. Every method raises Failed."""

    def report(self) -> Report:
        """Return the state of the whole fleet."""

    def workers(self) -> list[AdminWorker]:
        """Return all workers."""

    def counts(self) -> Usage:
        """Return what all routers have counted, and the jobs that run and are pending now."""

    def drain(self, url: str) -> AdminWorker:
        """Keep new jobs from a worker."""

    def resume(self, url: str) -> AdminWorker:
        """Give a drained worker new jobs again."""

    def tenants(self) -> list[AdminTenant]:
        """Return all tenants that have a rule of their own or counts, and `default`."""

    def events(self, asked: Asked) -> EventPage:
        """Return what has happened."""

    def failures(self, search: Search) -> FailedJobs:
        """Return the last failed jobs."""

    def history(self, span: Range) -> History:
        """Return the fleet's rates, step by step."""

    def change_tenant(self, name: str, fields: dict[str, Any]) -> AdminTenant:
        """Set fields of a tenant's rule; None: the value that it came with."""

    def reset_tenant(self, name: str) -> None:
        """Forget all that is set of a tenant."""


class RouterClient:
    """The fleet through the API of the router at `address`.

    It uses no proxy and follows no redirect, so that only this router gets the token.
    """

    def __init__(self, address: str, token: str | None, answer_within_s: float = ANSWER_WITHIN_S) -> None:
        self.address = masked(address)  # to be shown: a URL for jobs may have an API key
        self._url = urlsplit(address)
        self._token = token
        self._answer_within_s = answer_within_s

    def report(self) -> Report:
        """Return the state of the whole fleet as this router sees it."""
        _, text = self._ask("GET", "/health", taken={HTTPStatus.SERVICE_UNAVAILABLE})
        health = self._read(HealthStatus, text)
        status, body = self._ask("GET", "/admin/workers", taken={HTTPStatus.SERVICE_UNAVAILABLE})
        # A Redis that only refuses to be written to would still answer how many jobs ran before.
        if status == HTTPStatus.OK and health.redis == AVAILABLE:
            workers = self._read(list[AdminWorker | WorkerStatus], body)
        else:
            workers = [*self._read(FleetStatus, self._ask("GET", "/")[1]).workers]
        status, stats = self._ask("GET", "/admin/stats", taken={HTTPStatus.SERVICE_UNAVAILABLE})
        waiting = self._read(FleetCounts, stats).waiting if status == HTTPStatus.OK else None
        return Report(**health.model_dump(), workers=workers, waiting=waiting)

    def workers(self) -> list[AdminWorker]:
        """Return all workers."""
        return self._read(list[AdminWorker], self._ask("GET", "/admin/workers")[1])

    def counts(self) -> Usage:
        """Return what all routers have counted, and the jobs that run and are pending now."""
        return self._read(FleetCounts, self._ask("GET", "/admin/stats")[1]).usage()

    def drain(self, url: str) -> AdminWorker:
        """Keep new jobs from a worker."""
        return self._steer("POST", "/drain", url)

    def resume(self, url: str) -> AdminWorker:
        """Give a drained worker new jobs again."""
        return self._steer("POST", "/resume", url)

    def tenants(self) -> list[AdminTenant]:
        """Return all tenants that have a rule of their own or counts, and `default`."""
        return self._read(list[AdminTenant], self._ask("GET", "/admin/tenants")[1])

    def events(self, asked: Asked) -> EventPage:
        """Return what has happened."""
        return self._read(EventPage, self._ask("GET", f"/admin/events?{urlencode(asked.query)}")[1])

    def failures(self, search: Search) -> FailedJobs:
        """Return the last failed jobs."""
        return self._read(FailedJobs, self._ask("GET", f"/admin/failures?{urlencode(msgspec.to_builtins(search))}")[1])

    def history(self, span: Range) -> History:
        """Return the fleet's rates, step by step."""
        return self._read(History, self._ask("GET", f"/admin/history?range={span}")[1])

    def change_tenant(self, name: str, fields: dict[str, Any]) -> AdminTenant:
        """Set fields of a tenant's rule; None: the value that it came with."""
        return self._read(AdminTenant, self._ask("PATCH", f"/admin/tenants?name={quote(name, safe='')}", fields)[1])

    def reset_tenant(self, name: str) -> None:
        """Forget all that is set of a tenant."""
        self._ask("DELETE", f"/admin/tenants?name={quote(name, safe='')}")

    def change(self, url: str, fields: dict[str, int | None]) -> AdminWorker:
        """Set a worker's `weight`, `max_concurrency` or both; None: the value that it came with."""
        return self._steer("PATCH", "", url, fields)

    def add(self, fields: dict[str, Any]) -> AdminWorker:
        """Register a worker, or renew its registration; `fields` are NewWorker's."""
        return self._read(AdminWorker, self._ask("POST", "/admin/workers", fields)[1])

    def remove(self, url: str) -> None:
        """End a worker's registration."""
        self._ask("DELETE", f"/admin/workers?url={quote(url, safe='')}")

    def _steer(self, method: str, path: str, url: str, body: object = None) -> AdminWorker:
        return self._read(AdminWorker, self._ask(method, f"/admin/workers{path}?url={quote(url, safe='')}", body)[1])

    def _ask(
        self, method: str, target: str, body: object = None, taken: frozenset[int] | set[HTTPStatus] = frozenset()
    ) -> tuple[int, bytes]:
        """Return the status and body of the answer. Raises Failed unless the status is 2xx or one of `taken`."""
        headers: dict[str, str | bytes] = {"content-type": "application/json"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}".encode()
        parts = self._url
        kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=self._answer_within_s)
        was_sent = False
        try:
            connection.connect()
            was_sent = True
            sent = None if body is None else json.dumps(body)
            connection.request(method, parts.path + target, sent, headers)
            answer = connection.getresponse()
            status, text = answer.status, answer.read()
        except (OSError, UnicodeError) as error:  # UnicodeError: DNS can have no such name
            message = f"the router at {self.address} cannot be reached: {reason(error)}"
            raise Failed(message, Exit.UNREACHABLE, was_sent=was_sent) from error
        except HTTPException as error:
            raise Failed(f"no router answers at {self.address}: {error}", Exit.UNREACHABLE) from error
        finally:
            connection.close()
        if status in taken or HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return status, text
        raise self._refusal(status, text)

    def _refusal(self, status: int, text: bytes) -> Failed:
        try:
            detail = json.loads(text)["detail"]
            if isinstance(detail, list):  # of a request that is not valid; its place begins with `body` or `query`
                detail = "; ".join(f"{place_of(flaw['loc'][1:] or flaw['loc'])}: {flaw['msg']}" for flaw in detail)
        except (ValueError, TypeError, LookupError):
            return Failed(f"no router answers at {self.address}: status {status}", Exit.UNREACHABLE)
        if status == HTTPStatus.UNAUTHORIZED:
            message = "takes another admin token than" if self._token else "wants its admin token, in"
            return Failed(f"{self.address} {message} {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE}", Exit.NO_TOKEN)
        if detail == HTTPStatus.NOT_FOUND.phrase:  # what FastAPI answers where it has nothing, as workers do
            message = "it is no router, or one of an older release"
            return Failed(f"{self.address} does not know this request: {message}", Exit.FAILED)
        return Failed(str(detail), Exit.UNREACHABLE if status == HTTPStatus.SERVICE_UNAVAILABLE else Exit.FAILED)

    def _read(self, kind: type[_Value], text: bytes) -> _Value:
        try:
            return TypeAdapter(kind).validate_json(text)
        except ValidationError as error:
            raise Failed(
                f"no router answers at {self.address}: its answer is not a router's", Exit.UNREACHABLE
            ) from error
