"""The fleet as an operator's commands and the agent see and steer it, through a router's API.

steering_redis.py goes straight to Redis instead. What goes wrong is a Failed, told in one line. Imports here are what a
command waits for: nothing heavy.
"""

import json
from enum import IntEnum
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlsplit

from pydantic import TypeAdapter, ValidationError

from router.api.schemas import AdminWorker, FleetCounts, FleetStatus, HealthStatus, Report, WorkerStatus
from router.auth.admin_token import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE
from router.fleet.stats import Usage
from router.http.reasons import reason

ANSWER_WITHIN_S = 10.0

_Value = TypeVar("_Value")


class Exit(IntEnum):
    """How the fleet's commands end; docs/operations.md explains them."""

    DONE = 0
    REFUSED = 1
    BAD_INPUT = 2
    UNREACHABLE = 3
    NO_TOKEN = 4


class Failed(Exception):
    """What was asked for was not done; the message is one line. `was_sent` False: nobody has heard of it."""

    def __init__(self, message: str, status: Exit, *, was_sent: bool = True) -> None:
        super().__init__(" ".join(message.split()))
        self.status = status
        self.was_sent = was_sent


class Fleet(Protocol):
    """A way to the fleet. Every method raises Failed."""

    def report(self) -> Report:
        """Return how all of it is."""

    def workers(self) -> list[AdminWorker]:
        """Return all workers."""

    def counts(self) -> Usage:
        """Return what all routers have counted, and what runs and waits now."""

    def drain(self, url: str) -> AdminWorker:
        """Keep new jobs from a worker."""

    def resume(self, url: str) -> AdminWorker:
        """Let a worker have jobs again."""


class RouterClient:
    """The fleet by the API of the router at `address`.

    By no proxy, and redirected nowhere: the token goes to whom it is for.
    """

    def __init__(self, address: str, token: str | None, answer_within_s: float = ANSWER_WITHIN_S) -> None:
        self.address = address
        self._token = token
        self._answer_within_s = answer_within_s

    def report(self) -> Report:
        """Return how all of it is, as this router sees it."""
        _, health = self._ask("GET", "/health", taken={HTTPStatus.SERVICE_UNAVAILABLE})
        status, body = self._ask("GET", "/admin/workers", taken={HTTPStatus.SERVICE_UNAVAILABLE})
        if status == HTTPStatus.OK:
            workers = self._read(list[AdminWorker | WorkerStatus], body)
        else:
            workers = [*self._read(FleetStatus, self._ask("GET", "/")[1]).workers]
        status, stats = self._ask("GET", "/admin/stats", taken={HTTPStatus.SERVICE_UNAVAILABLE})
        waiting = self._read(FleetCounts, stats).waiting if status == HTTPStatus.OK else None
        return Report(**self._read(HealthStatus, health).model_dump(), workers=workers, waiting=waiting)

    def workers(self) -> list[AdminWorker]:
        """Return all workers."""
        return self._read(list[AdminWorker], self._ask("GET", "/admin/workers")[1])

    def counts(self) -> Usage:
        """Return what all routers have counted, and what runs and waits now."""
        return self._read(FleetCounts, self._ask("GET", "/admin/stats")[1]).usage()

    def drain(self, url: str) -> AdminWorker:
        """Keep new jobs from a worker."""
        return self._steer("POST", "/drain", url)

    def resume(self, url: str) -> AdminWorker:
        """Let a worker have jobs again."""
        return self._steer("POST", "/resume", url)

    def change(self, url: str, fields: dict[str, int | None]) -> AdminWorker:
        """Set a worker's `weight` or `max_concurrency`, or both; None: as it came with."""
        return self._steer("PATCH", "", url, fields)

    def add(self, fields: dict[str, Any]) -> AdminWorker:
        """Register the worker that `fields` (NewWorker's) describe, or renew it."""
        return self._read(AdminWorker, self._ask("POST", "/admin/workers", fields)[1])

    def remove(self, url: str) -> None:
        """End a worker's registration."""
        self._ask("DELETE", f"/admin/workers?url={quote(url, safe='')}")

    def _steer(self, method: str, path: str, url: str, body: object = None) -> AdminWorker:
        return self._read(AdminWorker, self._ask(method, f"/admin/workers{path}?url={quote(url, safe='')}", body)[1])

    def _ask(
        self, method: str, target: str, body: object = None, taken: frozenset[int] | set[HTTPStatus] = frozenset()
    ) -> tuple[int, bytes]:
        """Return status and body of the answer. Raises Failed, also at a status that is neither good nor `taken`."""
        headers: dict[str, str | bytes] = {"content-type": "application/json"}
        if self._token is not None:
            headers["authorization"] = f"Bearer {self._token}".encode()
        parts = urlsplit(self.address)
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
        except (OSError, UnicodeError) as error:  # the latter of a host that can be no name
            told = f"the router at {self.address} cannot be reached: {reason(error)}"
            raise Failed(told, Exit.UNREACHABLE, was_sent=was_sent) from error
        except HTTPException as error:
            raise Failed(f"no router answers at {self.address}: {error}", Exit.UNREACHABLE) from error
        finally:
            connection.close()
        if status in taken or HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES:
            return status, text
        raise self._refusal(status, text)

    def _refusal(self, status: int, text: bytes) -> Failed:
        if status == HTTPStatus.UNAUTHORIZED:
            told = "takes another admin token than" if self._token else "wants its admin token, in"
            return Failed(f"{self.address} {told} {TOKEN_VARIABLE} or {TOKEN_FILE_VARIABLE}", Exit.NO_TOKEN)
        try:
            detail = json.loads(text)["detail"]
            if isinstance(detail, list):  # FastAPI's, of what is wrong with a request
                detail = "; ".join(f"{problem['loc'][-1]}: {problem['msg']}" for problem in detail)
        except (ValueError, TypeError, LookupError):
            return Failed(f"no router answers at {self.address}: status {status}", Exit.UNREACHABLE)
        return Failed(str(detail), Exit.UNREACHABLE if status == HTTPStatus.SERVICE_UNAVAILABLE else Exit.REFUSED)

    def _read(self, kind: type[_Value], text: bytes) -> _Value:
        try:
            return TypeAdapter(kind).validate_json(text)
        except ValidationError as error:
            raise Failed(f"no router answers at {self.address}: its answer is another one", Exit.UNREACHABLE) from error
