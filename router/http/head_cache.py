"""Remembers what the heads of HTTP messages mean, so that a head which comes again is not parsed again.

A client sends the same head with each of its jobs, and a worker with each of its answers, but for the digits of
Content-Length. So a message that comes in one piece costs a search, a slice and a lookup in a dictionary, instead of
the parser, its callbacks and the reading of fields. The cache holds only heads that a parser has accepted: it would
accept the same bytes again, and read the same from them.
"""

import re
from typing import Generic, TypeVar

Meaning = TypeVar("Meaning")

# When so many are known, all are forgotten: a worker's heads hold the time of day, and so become useless each second.
MOST_HEADS = 1000
# A longer head is unusual. MOST_HEADS of this length take little memory.
LONGEST_HEAD_BYTES = 2048

_END = b"\r\n\r\n"
# The usual spelling; a head with another one is left to the parser.
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ?([0-9]{1,15})\r\n")


class HeadCache(Generic[Meaning]):
    """Heads' meanings by the keys that `split` gives the heads."""

    def __init__(self) -> None:
        self._meanings: dict[bytes, Meaning] = {}
        self.get = self._meanings.get  # a method of our own would double the cost of the call

    def learn(self, key: bytes, meaning: Meaning) -> None:
        """Keep the meaning of a head that a parser has accepted."""
        if len(key) > LONGEST_HEAD_BYTES:
            return
        if len(self._meanings) >= MOST_HEADS:
            self._meanings.clear()
        self._meanings[key] = meaning


def split(message: bytes) -> tuple[bytes, bytes] | None:
    r"""Return the key of a message's head, and the body; None unless the message is whole and nothing follows it.

    The key is all of the head but the digits of its length.

    >>> split(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
    (b'POST / HTTP/1.1\r\nContent-Length: ', b'{}')
    >>> split(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n{}")
    """
    end = message.find(_END)
    length = _LENGTH.search(message, 0, end + 2)
    if end < 0 or length is None:
        return None
    start, stop = length.span(1)
    body = message[end + 4 :]
    if len(body) != int(message[start:stop]):
        return None
    return message[:start] + message[stop:end], body
