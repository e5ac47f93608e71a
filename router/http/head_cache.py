"""HeadCache of HTTP messages that have been read before: what they mean is looked up, not read again.

A client sends the same head with each of its jobs, and a worker with each of its answers, but for the digits of their
Content-Length. So a message that comes in one piece costs a search, a cut and a look into a dictionary, 1 µs, where the
parser, its callbacks and what is made of the fields cost 15. Only what the parser has taken stands here: it would take
a head of the same bytes again, and make the same of it.
"""

import re
from typing import Generic, TypeVar

Meaning = TypeVar("Meaning")

# When so many are known, all are forgotten: workers' heads have the time of day in them, and pass with each second.
MOST_HEADS = 1000
# What is longer is no usual head; MOST_HEADS of these are no memory to speak of.
LONGEST_HEAD_BYTES = 2048

_END = b"\r\n\r\n"
# As it is mostly written; whatever else it may be is the parser's to read.
_LENGTH = re.compile(rb"\r\n[Cc]ontent-[Ll]ength: ?([0-9]{1,15})\r\n")


class HeadCache(Generic[Meaning]):
    """HeadCache and their meanings, by the names that `cut` gives them."""

    def __init__(self) -> None:
        self._meanings: dict[bytes, Meaning] = {}
        self.get = self._meanings.get  # a method of our own around it would cost as much again

    def learn(self, name: bytes, meaning: Meaning) -> None:
        """Keep what a head means that a parser has taken."""
        if len(name) > LONGEST_HEAD_BYTES:
            return
        if len(self._meanings) >= MOST_HEADS:
            self._meanings.clear()
        self._meanings[name] = meaning


def cut(message: bytes) -> tuple[bytes, bytes] | None:
    r"""Return the name of a message's head, and its body; None unless both are there, and nothing after them.

    The name is all of the head but its length.

    >>> cut(b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\n{}")
    (b'POST / HTTP/1.1\r\nContent-Length: ', b'{}')
    >>> cut(b"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\n{}")
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
