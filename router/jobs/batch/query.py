"""Reads what a batch's query says to the router, and leaves the rest for the workers."""

from typing import NamedTuple

from router.jobs.endpoints import BadOption
from router.policy.tenants import ARRIVAL, LONGEST_FIRST

_CHOICES = {b"order": (ARRIVAL, LONGEST_FIRST), b"stop_on": ("failure",)}
# As much of a bad value is repeated to its client.
_SHOWN = 80


class BatchQuery(NamedTuple):
    """`order` is `arrival`, `longest_first`, or "" if the query has none. `rest` is what workers get of the query."""

    order: str
    stops_on_failure: bool
    rest: bytes


def read_query(query: bytes) -> BatchQuery:
    """Read the query of a batch. Raises BadOption for a value that is no choice.

    >>> read_query(b"debug=1&order=longest_first&x")
    BatchQuery(order='longest_first', stops_on_failure=False, rest=b'debug=1&x')
    >>> read_query(b"stop_on=success")
    Traceback (most recent call last):
    router.jobs.endpoints.BadOption: stop_on: expected failure, got success
    """
    said: dict[bytes, str] = {}
    rest: list[bytes] = []
    for member in query.split(b"&"):
        name, _, value = member.partition(b"=")
        if name not in _CHOICES:
            rest.append(member)
            continue
        said[name] = value.decode("latin-1")
        if said[name] not in _CHOICES[name]:
            raise BadOption(f"{name.decode()}: expected {' or '.join(_CHOICES[name])}, got {said[name][:_SHOWN]}")
    return BatchQuery(said.get(b"order", ""), b"stop_on" in said, b"&".join(rest))
