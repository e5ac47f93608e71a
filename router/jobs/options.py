"""What few jobs say of themselves, each in a header field of its own: see OPTIONS in router/http/headers.py."""

import re
from collections.abc import Mapping

import msgspec

from router.config.bounds import MAX_EXPECTED_MS, MAX_REUSE_S, whole_number
from router.http.headers import EXPECTED, GROUP, REUSE, SIZE_KEY, STOP_ON

# What a client may call a group, or jobs of one size.
NAME = r"[!-~]{1,128}"
_NAME = re.compile(NAME)


class JobOptions(msgspec.Struct, frozen=True):
    """`expected_ms` is how long the job is expected to take on a worker of normal speed; 0: the client does not say.

    Jobs with the same `size_key` take about as long; "": the router finds one. For `reuse_s` the result of an identical
    job will do; None: as its tenant's rule says. The job belongs to `group`; "": to none. `stops_on_failure`: once a
    job of the group has failed, those that wait are not run.

    Two say what a batch knows of its jobs: `scope` is the batch of a group that is no other batch's; "": the group is
    the tenant's. `is_sized`: the job's size is of use, so that it is learned.
    """

    expected_ms: int = 0
    size_key: str = ""
    reuse_s: int | None = None
    group: str = ""
    stops_on_failure: bool = False
    scope: str = ""
    is_sized: bool = False


NO_OPTIONS = JobOptions()


def options_in(fields: Mapping[bytes, str]) -> JobOptions:
    """Return the options in these header fields. Raises ValueError, which names the field.

    >>> options_in({EXPECTED: "1500", GROUP: "p7"}) == JobOptions(expected_ms=1500, group="p7")
    True
    >>> options_in({STOP_ON: "success"})
    Traceback (most recent call last):
    ValueError: x-router-stop-on: expected failure
    """
    stop_on = fields.get(STOP_ON)
    if stop_on not in (None, "failure"):
        raise ValueError(f"{STOP_ON.decode()}: expected failure")
    return JobOptions(
        expected_ms=_whole(fields, EXPECTED, 1, MAX_EXPECTED_MS) or 0,
        size_key=_name(fields, SIZE_KEY),
        reuse_s=_whole(fields, REUSE, 0, MAX_REUSE_S),
        group=_name(fields, GROUP),
        stops_on_failure=stop_on is not None,
    )


def _whole(fields: Mapping[bytes, str], field: bytes, least: int, most: int) -> int | None:
    text = fields.get(field)
    if text is None:
        return None
    number = whole_number(text, least, most)
    if number is None:
        raise ValueError(f"{field.decode()}: expected a whole number from {least} to {most}")
    return number


def _name(fields: Mapping[bytes, str], field: bytes) -> str:
    text = fields.get(field, "")
    if text and not _NAME.fullmatch(text):
        raise ValueError(f"{field.decode()}: expected 1 to 128 printable ASCII characters without spaces")
    return text
