"""Splices `router_metadata`, which names the worker of an answer, into its JSON as bytes.

Parsing and dumping the JSON would cost more than all other work of the router, and would change the worker's text.
"""

import json
import re

_SPACE = b" \t\n\r"
_EMPTY = re.compile(rb"\{[ \t\n\r]*\}")
# This much space may follow an object's last brace. A stream holds back at most so much, because it may be the end.
_MOST_SPACE = 4096


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

    def feed(self, part: bytes) -> bytes:
        """Return the bytes that can be sent, of `part` and of the bytes held back before."""
        if self._is_object is None:
            text = part.lstrip(_SPACE)
            if not text:
                return part
            self._is_object = text.startswith(b"{")
            if self._is_object:
                start = len(part) - len(text) + 1
                return part[:start] + self.feed(part[start:])
        return self._pass(part) if self._is_object else part

    def end(self) -> bytes:
        """Return the last bytes, when the body has ended."""
        if not self._held:
            return b""
        return b"".join((b"" if self._is_empty else b",", self._added, self._held))

    def _pass(self, part: bytes) -> bytes:
        part = self._held + part
        text = part.rstrip(_SPACE)
        may_end = text.endswith(b"}") and len(part) - len(text) <= _MOST_SPACE
        place = len(text) - 1 if may_end else len(part)
        self._held = part[place:]
        passed = part[:place]
        self._is_empty = self._is_empty and not passed.strip(_SPACE)
        return passed
