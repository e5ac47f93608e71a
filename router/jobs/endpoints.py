"""Reads what the head of a request says about its job."""

import msgspec

from router.auth.access import Admission
from router.http.headers import DEADLINE, LABELS, Head, Headers
from router.jobs.options import NO_OPTIONS, JobOptions, options_in
from router.policy import tenants
from router.policy.endpoints import SANDBOX_FUSION
from router.policy.placement import LABEL, names_in

# SandboxFusion's endpoints and their methods, without /v1/ping, which the router answers itself.
JOB_ENDPOINTS = {path: endpoint.method for path, endpoint in SANDBOX_FUSION.items()}
# A deadline of more digits (in ms: over 31 years) counts as one of this many.
_DEADLINE_DIGITS = 12


class Asked(msgspec.Struct, frozen=True):
    """The head of a request for a job; header names are in lower case."""

    method: str
    path: str
    query: bytes
    headers: Headers


class JobHead(msgspec.Struct, frozen=True):
    """What all jobs that are sent with this head have in common, except for the length of their bodies.

    `lines` are the header lines for the worker. `request_id` is None if each job gets a new one. `client_s` is for how
    many seconds the client waits, None if it does not say. `tenant` is "" if none is named. `labels` are those that the
    client asks for. `options` are what few clients say.
    """

    path: str
    target: bytes
    lines: bytes
    admission: Admission
    keep_alive: bool
    request_id: bytes | None = None
    client_s: float | None = None
    method: bytes = b"POST"
    tenant: str = ""
    labels: tuple[str, ...] = ()
    options: JobOptions = NO_OPTIONS


class BadHead(Exception):
    """A head says something of its job that is no valid value; the message names it."""


class BadDeadline(BadHead):
    """The client's deadline is not a whole number of milliseconds."""


class BadTenant(BadHead):
    """No tenant may have this name."""


class BadLabels(BadHead):
    """The labels that the client asks for are no list of names."""


class BadOption(BadHead):
    """One of the header fields that few jobs have says nothing that is valid."""


def options_of(head: Head) -> JobOptions:
    """Return what the client says in the fields that few jobs have. Raises BadOption."""
    if not head.options:  # as of most jobs
        return NO_OPTIONS
    try:
        return options_in({name: value.decode("utf-8", "replace") for name, value in head.options})
    except ValueError as error:
        raise BadOption(str(error)) from error


def labels_of(head: Head) -> tuple[str, ...]:
    """Return the labels that the client asks for. Raises BadLabels."""
    if not head.options:  # as of most jobs
        return ()
    lists = [value.decode("utf-8", "replace") for name, value in head.options if name == LABELS]
    try:
        return names_in(",".join(lists), LABEL)  # several fields are one list (RFC 9110 §5.3)
    except ValueError as error:
        raise BadLabels(f"{LABELS.decode()}: {error}") from error


def tenant_of(admission: Admission, head: Head) -> str:
    """Return whose job it is, "" if nobody is named. Where jobs need a key, its name alone counts. Raises BadTenant."""
    if admission.key is not None:
        return tenants.of_key(admission.key_name)
    if head.tenant is None:
        return ""
    name = head.tenant.decode("utf-8", "replace")
    if found := tenants.flaw(name):
        raise BadTenant(found)
    return name


def client_s_of(head: Head) -> float | None:
    """Return for how many seconds the client waits, None if it does not say. Raises BadDeadline."""
    deadline = head.deadline
    if deadline is None:
        return None
    digits = deadline.lstrip(b"0")
    if not deadline.isdigit() or not digits:
        raise BadDeadline(f"{DEADLINE.decode()}: expected a whole number of milliseconds above 0")
    return (int(digits) if len(digits) <= _DEADLINE_DIGITS else 10**_DEADLINE_DIGITS) / 1000
