"""Reads for how long a worker without room wants no jobs: its Retry-After, in seconds or a date (RFC 9110 §10.2.3).

A date counts from the answer's own Date, so that clocks of two hosts are never compared. Only the form of dates is read
that RFC 9110 §5.6.7 allows to send.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

Headers = Sequence[tuple[bytes, bytes]]

# A worker that asks for a longer rest gets a job after this time; if it still has no room, that costs a round trip.
MAX_REST_MS = 10_000
_SECONDS = re.compile(rb"0*([0-9]{1,9})(?:\.[0-9]*)?")
_DATE = re.compile(rb"[A-Z][a-z]{2}, (\d{2}) ([A-Z][a-z]{2}) (\d{4}) (\d{2}):(\d{2}):(\d{2}) GMT")
_MONTHS = (b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec")
_MORE_SECONDS = re.compile(rb"[0-9]{10,}(?:\.[0-9]*)?")


def first(headers: Headers, name: bytes) -> bytes | None:
    """Return the first value of a header field; `name` is in lower case, as those of `headers` are."""
    return next((value for its, value in headers if its == name), None)


def rest_ms(retry_after: bytes | None, date: bytes | None) -> int:
    """Return for how long to send the worker no jobs, at most MAX_REST_MS; 0 if the header is missing or invalid.

    >>> rest_ms(b"2", None), rest_ms(b"1e308", None), rest_ms(b"-1", None), rest_ms(b"9" * 400, None)
    (2000, 0, 0, 10000)
    >>> rest_ms(b"Sat, 28 Nov 2026 10:00:03 GMT", b"Sat, 28 Nov 2026 10:00:00 GMT")
    3000
    """
    text = (retry_after or b"").strip()
    if seconds := _SECONDS.fullmatch(text):
        return min(int(seconds[1]) * 1000, MAX_REST_MS)
    if _MORE_SECONDS.fullmatch(text):
        return MAX_REST_MS
    since, until = _moment((date or b"").strip()), _moment(text)
    if since is None or until is None:
        return 0
    return max(0, min((until - since) // timedelta(milliseconds=1), MAX_REST_MS))


def _moment(text: bytes) -> datetime | None:
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    day, year, hour, minute, second = (int(found[group]) for group in (1, 3, 4, 5, 6))
    try:
        return datetime(year, _MONTHS.index(found[2]) + 1, day, hour, minute, second, tzinfo=UTC)
    except ValueError:  # 31 February, 25 o'clock, year 0, no month
        return None
