"""Decides which header fields are forwarded, which are dropped and which are added, towards workers and clients.

Forwarded headers are rebuilt from parsed fields, never copied. This module sees bytes only, no connection.
"""

from collections.abc import Sized

import msgspec

Headers = list[tuple[bytes, bytes]]

# How many milliseconds the client waits for its answer.
DEADLINE = b"x-router-deadline-ms"
# Whose job it is, of a client; and in an answer, if the client named somebody.
TENANT = b"x-router-tenant"
# What the job's worker must have: names with commas between.
LABELS = b"x-router-labels"
# How long the job is expected to take, and under which name jobs that take as long are known.
EXPECTED = b"x-router-expected-ms"
SIZE_KEY = b"x-router-size-key"
# For how many seconds the result of an identical job will do.
REUSE = b"x-router-reuse"
# Which jobs the job belongs to, and what of one of them ends the others.
GROUP = b"x-router-group"
STOP_ON = b"x-router-stop-on"
# What few jobs say of themselves.
OPTIONS = frozenset({LABELS, EXPECTED, SIZE_KEY, REUSE, GROUP, STOP_ON})

# RFC 9110 §7.6.1: these concern one connection only, and so do the fields that Connection names.
_HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_PLAIN_CONNECTIONS = (b"keep-alive", b"close")  # values of Connection that name no field
# The router sets these itself for the worker, or they are meant for the router: Host is the worker's address;
# Content-Length is that of the body held; an answer must not be compressed, because metadata is added to it
# (Accept-Encoding); uvicorn has answered Expect; the router may have made the request id; it keeps the deadline,
# the tenant and the options.
_NOT_FOR_WORKER = _HOP_BY_HOP | {
    *(b"host", b"content-length", b"accept-encoding", b"expect", b"x-request-id"),
    *(DEADLINE, TENANT, *OPTIONS),
}
# uvicorn writes its own Date and Server; the rest are fields that the router adds, and the framing.
_NOT_FOR_CLIENT = _HOP_BY_HOP | {
    b"content-length",
    b"date",
    b"server",
    b"x-router-worker",
    b"x-router-attempt",
    b"x-router-queue-ms",
    b"x-request-id",
    TENANT,
}


class Head(msgspec.Struct, frozen=True):
    """What a request's header fields say to the router; `lines` are those forwarded to the worker.

    `options` are the fields of OPTIONS, which few jobs have.
    """

    lines: bytes
    request_id: bytes | None = None
    deadline: bytes | None = None
    content_length: int = 0
    tenant: bytes | None = None
    options: tuple[tuple[bytes, bytes], ...] = ()


def read_head(fields: Headers) -> Head:
    """Read the header fields of a client's request; their names are in lower case, as ASGI gives them.

    One pass finds everything, because each job pays for it.
    """
    lines: list[bytes] = []
    request_id = deadline = tenant = connection = None
    length = b"0"
    options: tuple[tuple[bytes, bytes], ...] = ()
    for name, value in fields:
        if name not in _NOT_FOR_WORKER:
            lines.append(b"%s: %s\r\n" % (name, value))
        elif name == b"content-length":
            length = value
        elif name == b"x-request-id":
            request_id = value if request_id is None else request_id
        elif name == DEADLINE:
            deadline = value
        elif name == TENANT:
            tenant = value
        elif name in OPTIONS:
            options = (*options, (name, value))
        elif name == b"connection" and value.lower() not in _PLAIN_CONNECTIONS:
            connection = value
    if connection is not None:
        lines = [as_lines(_end_to_end(fields, _NOT_FOR_WORKER))]
    return Head(b"".join(lines), request_id, deadline, int(length), tenant, options)


def of_tenant(name: str, fields: Headers) -> Headers:
    """Return a request's header fields with this tenant in place of theirs."""
    return [(TENANT, name.encode()), *(field for field in fields if field[0] != TENANT)]


def for_worker(lines: bytes, body: Sized, request_id: bytes) -> bytes:
    """Return the header block of a request to a worker: all but the request line and Host, with the empty last line.

    `lines` are those that `read_head` found.
    """
    added = b"accept-encoding: identity\r\nx-request-id: %s\r\ncontent-length: %d\r\n\r\n"
    return lines + added % (request_id, len(body))


class WorkerHead(msgspec.Struct, frozen=True):
    """The head of a worker's answer. `headers` have lower-case names; `lines` are those forwarded to the client."""

    status: int
    headers: Headers
    lines: bytes
    is_json: bool  # and not compressed, so that metadata can be added
    is_packed: bool  # compressed by a content-encoding, so that the body cannot be read


def read_worker_head(status: int, headers: Headers) -> WorkerHead:
    """Read the head of a worker's answer."""
    is_json = is_packed = False
    for name, value in headers:
        if name == b"content-type":
            is_json = value.partition(b";")[0].strip().lower() == b"application/json"
        elif name == b"content-encoding" and value != b"identity":
            is_packed = True
    lines = as_lines(_end_to_end(headers, _NOT_FOR_CLIENT))
    return WorkerHead(status, headers, lines, is_json and not is_packed, is_packed)


def as_lines(headers: Headers) -> bytes:
    """Return header fields as HTTP/1.1 lines."""
    return b"".join([b"%s: %s\r\n" % field for field in headers])


def as_fields(lines: bytes) -> Headers:
    r"""Return header fields from lines that `as_lines` made.

    >>> as_fields(b"a: 1\r\nb: x: y\r\n")
    [(b'a', b'1'), (b'b', b'x: y')]
    """
    fields = [line.split(b": ", 1) for line in lines.split(b"\r\n")[:-1]]
    return [(name, value) for name, value in fields]


def _end_to_end(headers: Headers, dropped: frozenset[bytes]) -> Headers:
    for name, value in headers:
        if name == b"connection":
            dropped |= {token.strip().lower() for token in value.split(b",")}
    return [field for field in headers if field[0] not in dropped]
