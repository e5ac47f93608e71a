"""Splices `router_metadata`, which names the worker of an answer, into its JSON as bytes.

Parsing and dumping the JSON would cost more than all other work of the router, and would change the worker's text.
"""

import json
import re
from typing import TypeAlias

_SPACE = b" \t\n\r"
_NO_SPACE = re.compile(rb"[^ \t\n\r]")
_EMPTY = re.compile(rb"\{[ \t\n\r]*\}")
# This much space may follow an object's last brace. A stream holds back at most so much, because it may be the end.
_MOST_SPACE = 4096
# Of a body; a slice of a memoryview is no copy.
Part: TypeAlias = bytes | memoryview


def member(
    worker_url: str,
    attempt: int,
    tenant: str = "",
    *,
    is_adopted: bool = False,
    is_reused: bool = False,
    is_hedged: bool = False,
) -> bytes:
    """Return `"router_metadata": {…}` as JSON bytes, up to the number of ms that the job waited for its leases.

    It has the tenant if the job's client named one. `is_adopted`: the job got what another one had left behind.
    `is_reused`: the answer is that to an identical job. `is_hedged`: it is a second run's, beside the first.

    >>> member("http://server1:8080", 1) + b"12}"
    b'"router_metadata":{"worker_url":"http://server1:8080","attempt":1,"queue_ms":12}'
    >>> member("http://server1:8080", 1, "run-7") + b"12}"
    b'"router_metadata":{"worker_url":"http://server1:8080","attempt":1,"tenant":"run-7","queue_ms":12}'
    """
    named = b'"tenant":%s,' % json.dumps(tenant).encode() if tenant else b""
    reused = b'"reused":true,' if is_reused else b""
    adopted = b'"adopted":true,' if is_adopted else b""
    url = json.dumps(worker_url).encode()
    hedged = b'"hedged":true,' if is_hedged else b""
    more = named + adopted + reused + hedged
    return b'"router_metadata":{"worker_url":%s,"attempt":%d,%s"queue_ms":' % (url, attempt, more)


def splice(body: bytes, added: bytes) -> bytes:
    """Return `body` with `added` as the last member of its JSON object; a body that is no object is unchanged.

    >>> splice(b'{"status": "Success"}', b'"a":1')
    b'{"status": "Success","a":1}'
    >>> splice(b'[1]', b'"a":1')
    b'[1]'
    """
    text = body.strip(_SPACE)
    if not (text.startswith(b"{") and text.endswith(b"}")):
        return body
    end = body.rindex(b"}")
    if len(body) - end > _MOST_SPACE + 1:
        return body
    comma = b"" if _EMPTY.fullmatch(text) else b","
    return b"".join((body[:end], comma, added, body[end:]))


class Splicer:
    """`splice` for a body that comes in parts: what `feed` and `end` return, joined, is the spliced body.

    >>> splicer = Splicer(b'"a":1')
    >>> splicer.feed(b'{"status": "Suc'), splicer.feed(b'cess"}'), splicer.end()
    (b'{"status": "Suc', b'cess"', b',"a":1}')
    """

    def __init__(self, added: bytes) -> None:
        self._added = added
        self._is_object: bool | None = None  # None: only space has come so far
        self._is_empty = True
        self._held = b""  # what may be the last brace, and the space after it

    def feed(self, part: Part) -> Part:
        """Return the bytes that can be sent, of `part` and of the bytes held back before."""
        if self._is_object:
            return self._pass(part, 0)
        if self._is_object is None:
            begin = _past_space(part, 0)
            if begin < len(part):
                self._is_object = part[begin : begin + 1] == b"{"
                if self._is_object:
                    return self._pass(part, begin + 1)
        return part

    def end(self) -> bytes:
        """Return the last bytes, when the body has ended."""
        if not self._held:
            return b""
        return b"".join((b"" if self._is_empty else b",", self._added, self._held))

    def _pass(self, part: Part, start: int) -> Part:
        """Return what of a part can be sent; before `start` it has nothing of the object's members."""
        if self._held:
            part = self._held + bytes(part)
        tail = bytes(part[max(start, len(part) - _MOST_SPACE - 1) :])
        text = tail.rstrip(_SPACE)
        place = len(part) - len(tail) + len(text) - 1 if text.endswith(b"}") else len(part)
        self._held = bytes(part[place:])
        self._is_empty = self._is_empty and _past_space(part, start) >= place
        return part[:place]


def _past_space(text: Part, start: int) -> int:
    """Return the place of the first character from `start` on that is no space."""
    found = _NO_SPACE.search(text, start)
    return len(text) if found is None else found.start()
