"""Header fields at the router's two sides: what goes on, what ends here, what is added.

What is forwarded is rebuilt from parsed fields, never copied. This room knows bytes alone, no connection.
"""

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


def for_worker(headers: Headers, body: bytes, request_id: bytes) -> bytes:
    """Return the header block of the request to a worker, all but its first line and Host, with the empty last line.

    `headers` have lower-case names, as ASGI gives them.
    """
    lines = [b"%s: %s\r\n" % field for field in _end_to_end(headers, _NOT_FOR_WORKER)]
    lines.append(
        b"accept-encoding: identity\r\nx-request-id: %s\r\ncontent-length: %d\r\n\r\n" % (request_id, len(body))
    )
    return b"".join(lines)


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
    return any(name == b"content-encoding" and value != b"identity" for name, value in headers)
