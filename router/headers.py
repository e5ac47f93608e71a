"""Header fields at the router's two sides: what goes on, what ends here, what is added.

What is forwarded is rebuilt from parsed fields, never copied. This room knows bytes alone, no connection.
"""

import msgspec

Headers = list[tuple[bytes, bytes]]

# How many milliseconds the client waits for its answer.
DEADLINE = b"x-router-deadline-ms"

# RFC 9110 §7.6.1: these concern one connection, as do those that Connection names.
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
# Made anew for the worker: its own address, the length of the body in hand, an answer that can be added to
# (accept-encoding), no wait for a 100 that uvicorn has given already (expect), and the id that the job goes by. The
# deadline is the router's to keep.
_PLAIN_CONNECTIONS = (b"keep-alive", b"close")  # they name no field
_NOT_FOR_WORKER = _HOP_BY_HOP | {b"host", b"content-length", b"accept-encoding", b"expect", b"x-request-id", DEADLINE}
# uvicorn writes its own date and server.
_NOT_FOR_CLIENT = _HOP_BY_HOP | {
    b"content-length",
    b"date",
    b"server",
    b"x-router-worker",
    b"x-router-attempt",
    b"x-router-queue-ms",
    b"x-request-id",
}


class Head(msgspec.Struct, frozen=True):
    """What a request's fields say to the router; `lines` go on to the worker."""

    lines: bytes
    request_id: bytes | None = None
    deadline: bytes | None = None
    content_length: int = 0


def read_head(fields: Headers) -> Head:
    """Return what the fields of a client's request say; their names are in lower case, as ASGI gives them.

    One walk for all that is asked of them, for each job pays it.
    """
    lines: list[bytes] = []
    request_id = deadline = connection = None
    length = b"0"
    for name, value in fields:
        if name not in _NOT_FOR_WORKER:
            lines.append(b"%s: %s\r\n" % (name, value))
        elif name == b"content-length":
            length = value
        elif name == b"x-request-id":
            request_id = value if request_id is None else request_id
        elif name == DEADLINE:
            deadline = value
        elif name == b"connection" and value.lower() not in _PLAIN_CONNECTIONS:
            connection = value
    if connection is not None:
        lines = [b"%s: %s\r\n" % field for field in _end_to_end(fields, _NOT_FOR_WORKER)]
    return Head(b"".join(lines), request_id, deadline, int(length))


def for_worker(lines: bytes, body: bytes, request_id: bytes) -> bytes:
    """Return the header block of the request to a worker, all but its first line and Host, with the empty last line.

    `lines` are of `read_head`.
    """
    added = b"accept-encoding: identity\r\nx-request-id: %s\r\ncontent-length: %d\r\n\r\n"
    return lines + added % (request_id, len(body))


def for_client(headers: Headers) -> Headers:
    """Return the worker's fields that the client gets; `headers` have lower-case names."""
    return _end_to_end(headers, _NOT_FOR_CLIENT)


def _end_to_end(headers: Headers, dropped: frozenset[bytes]) -> Headers:
    for name, value in headers:
        if name == b"connection":
            dropped |= {token.strip().lower() for token in value.split(b",")}
    return [field for field in headers if field[0] not in dropped]


def is_packed(headers: Headers) -> bool:
    """Whether a content-encoding stands between the body and what it says."""
    for name, value in headers:  # noqa: SIM110  (any() makes a generator: half a microsecond a job)
        if name == b"content-encoding" and value != b"identity":
            return True
    return False
