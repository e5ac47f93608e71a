"""Reads what a line of a batch says of its own job to the router: the member `router`, which no worker gets.

Other lines cost one search for the member's name.
"""

import json
import re
from collections.abc import Generator
from typing import Annotated

import msgspec

from router.config.bounds import MAX_EXPECTED_MS
from router.http.response import Body
from router.jobs.options import NAME, JobOptions
from router.policy.large_json import Fields, Malformed

_Name = Annotated[str, msgspec.Meta(pattern=rf"^{NAME}\Z")]
_SAYS_PATTERN = re.compile(r"`str` matching regex '.*'")
_MEMBER = b'"router"'
# In a larger text the member is looked for a piece at a time, and stays there: workers ignore it.
PIECE_BYTES = 2**18


class Hints(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a line says of its job; None: nothing."""

    expected_ms: Annotated[int, msgspec.Meta(ge=1, le=MAX_EXPECTED_MS)] | None = None
    size_key: _Name | None = None
    group: _Name | None = None

    def over(self, options: JobOptions, scope: str) -> JobOptions:
        """Return the options of the whole batch with these in place of theirs. A group is one of this batch alone."""
        said = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        if self.group is not None:
            said["scope"] = scope
        return msgspec.structs.replace(options, **said)


NO_HINTS = Hints()
_read = msgspec.json.Decoder(Hints).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_of_large = Fields([("router", name) for name in Hints.__struct_fields__])


def take_out(text: Body) -> Generator[None, None, tuple[Body, Hints]]:
    """Return a line's job without the hints, and the hints; yields between pieces of a large text.

    Raises ValueError, which names the member.

    >>> from router.policy.large_json import finished
    >>> finished(take_out(b'{"code": "1", "router": {"expected_ms": 1500}}'))
    (b'{"code":"1"}', Hints(expected_ms=1500, size_key=None, group=None))
    >>> finished(take_out(b'{"code": "1", "files": {"router": "MQ=="}}'))
    (b'{"code": "1", "files": {"router": "MQ=="}}', Hints(expected_ms=None, size_key=None, group=None))
    """
    if len(text) > PIECE_BYTES:
        return text, (yield from _in_large(text))
    if _MEMBER not in bytes(text):
        return text, NO_HINTS
    try:
        members = _members(text)
    except (msgspec.DecodeError, RecursionError):
        return _leniently(bytes(text))
    said = members.pop("router", None)
    if said is None:  # within another member
        return text, NO_HINTS
    return msgspec.json.encode(members), _hints(bytes(said))


def _leniently(text: bytes) -> tuple[Body, Hints]:
    """Take the hints out of JSON that only Python's parser reads, as with NaN or half a surrogate pair."""
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):  # the worker will say so
        return text, NO_HINTS
    if "router" not in members:
        return text, NO_HINTS
    said = members.pop("router")
    return json.dumps(members).encode(), _hints(json.dumps(said).encode())


def _in_large(text: Body) -> Generator[None, None, Hints]:
    for start in range(0, len(text), PIECE_BYTES):
        if _MEMBER in bytes(text[start : start + PIECE_BYTES + len(_MEMBER)]):
            break
        yield
    else:
        return NO_HINTS
    try:
        excerpt = yield from _of_large.excerpt(text)
    except Malformed:
        return NO_HINTS
    return _hints(bytes(_members(excerpt).get("router", b"{}")))


def _hints(said: bytes) -> Hints:
    try:
        return _read(said)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        told = _SAYS_PATTERN.sub("1 to 128 printable ASCII characters without spaces", str(error))
        raise ValueError(f"router: {told}") from error
