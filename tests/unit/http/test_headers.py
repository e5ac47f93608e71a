"""Which header fields are forwarded to a worker and to a client, which are dropped, and which are added."""

from router.http import headers


def test_hop_by_hop_fields_are_dropped_both_ways() -> None:
    """The fields of one connection, and those that Connection names, are not forwarded (RFC 9110 §7.6.1)."""
    fields = [
        (b"connection", b"close, X-Mine"),
        (b"x-mine", b"1"),
        (b"keep-alive", b"timeout=5"),
        (b"te", b"trailers"),
        (b"transfer-encoding", b"chunked"),
        (b"upgrade", b"h2c"),
        (b"proxy-authorization", b"secret"),
        (b"x-theirs", b"2"),
    ]
    assert headers.read_worker_head(200, fields).lines == b"x-theirs: 2\r\n"
    block = headers.for_worker(headers.read_head(fields).lines, b"{}", b"id-1")
    assert block.split(b"\r\n") == [
        b"x-theirs: 2",
        b"accept-encoding: identity",
        b"x-request-id: id-1",
        b"content-length: 2",
        b"",
        b"",
    ]


def test_host_length_encoding_and_id_are_set_for_the_worker() -> None:
    """Values of the client are not copied, and fields for the router end here."""
    fields = [
        (b"host", b"router"),
        (b"content-length", b"99"),
        (b"accept-encoding", b"gzip"),
        (b"expect", b"100-continue"),
        (b"x-router-deadline-ms", b"1000"),
        (b"x-router-tenant", b"run-7"),
        (b"x-router-labels", b"gpu"),
        (b"x-request-id", b"forged"),
        (b"content-type", b"application/json"),
    ]
    block = headers.for_worker(headers.read_head(fields).lines, b"abc", b"mine")
    assert block == (
        b"content-type: application/json\r\n"
        b"accept-encoding: identity\r\nx-request-id: mine\r\ncontent-length: 3\r\n\r\n"
    )
