"""What a batch consists of: the lines of an NDJSON body, or the items of a JSON list. They are found, never rebuilt.

Bytes in, bytes out: where they come from and what becomes of them, this room does not know.
"""

import codecs
import json
import re
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

_skim = msgspec.json.Decoder(msgspec.Raw).decode
# What msgspec refuses, workers may take: NaN, half a surrogate pair. The parser that they use builds all that it
# reads, so only what is small is shown to it.
_LENIENT_BYTES = 2**20
_PIECE_BYTES = 2**20
# In JSON that is well-formed, nothing else tells where a list's items end. Strings are one token, whatever is in them;
# possessive, for else the matcher would remember each escape of a long one.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{},]', re.DOTALL)
_OPENS, _CLOSES, _COMMA = b"[{", b"]}", b","


class Line(NamedTuple):
    """One line without its end, counted from 1; `text` is None where it was longer than is held."""

    number: int
    text: bytes | None


class Lines:
    r"""Splits what comes in parts into lines, and holds the beginning of one, but never more than `max_bytes` of it.

    >>> lines = Lines(max_bytes=3)
    >>> [*lines.feed(b"a\n\nabc"), *lines.feed(b"def\nb"), *lines.end()]
    [Line(number=1, text=b'a'), Line(number=2, text=b''), Line(number=3, text=None), Line(number=4, text=b'b')]
    """

    def __init__(self, max_bytes: float) -> None:
        self.held_bytes = 0
        self._max_bytes = max_bytes
        self._number = 1
        self._held: list[bytes] = []
        self._is_skipped = False

    def feed(self, part: bytes) -> Iterator[Line]:
        """Yield the lines that end in `part`."""
        start = 0
        while (end := part.find(b"\n", start)) >= 0:
            self._hold(part[start:end])
            yield self._line()
            start = end + 1
        self._hold(part[start:])

    def end(self) -> Iterator[Line]:
        """Yield the last line, where it has no end."""
        if self._held or self._is_skipped:
            yield self._line()

    def skip(self) -> None:
        """Hold nothing of the line that has begun: its text will be None."""
        self._held, self.held_bytes, self._is_skipped = [], 0, True

    def _hold(self, piece: bytes) -> None:
        if self._is_skipped or not piece:
            return
        self._held.append(piece)
        self.held_bytes += len(piece)
        if self.held_bytes > self._max_bytes:
            self.skip()

    def _line(self) -> Line:
        line = Line(self._number, None if self._is_skipped else b"".join(self._held))
        self._number += 1
        self._held, self.held_bytes, self._is_skipped = [], 0, False
        return line


def items(text: bytes) -> Iterator[bytes]:
    """Yield the items of a JSON list, which has to be well-formed, one by one.

    >>> list(items(b'[{"a": "],"}, [1, 2]]'))
    [b'{"a": "],"}', b' [1, 2]']
    """
    depth = start = 0
    for token in _TOKEN.finditer(text):
        place = token.start()
        if text[place] in _OPENS:
            depth += 1
            if depth == 1:
                start = token.end()
        elif text[place] in _CLOSES:
            depth -= 1
            if depth == 0 and text[start:place].strip():
                yield text[start:place]
        elif depth == 1 and text[place] in _COMMA:
            yield text[start:place]
            start = token.end()


def flaw(text: bytes) -> str | None:
    """Return what keeps `text` from being JSON; None where nothing does.

    >>> flaw(b'{"a": 1}')
    >>> flaw(b'{"a": }')
    'JSON is malformed: invalid character (byte 6)'
    """
    try:
        _skim(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return None if len(text) <= _LENIENT_BYTES and _is_python_json(text) else str(error)
    return None


def flaw_as_job(text: bytes) -> str | None:
    """Return what keeps `text` from being a job, as far as that can be seen without a worker."""
    if (found := flaw(text)) is not None:
        return f"expected a JSON object: {found}"
    return None if text.lstrip().startswith(b"{") else "expected a JSON object"


def in_one_line(body: bytes) -> bytes:
    r"""Return a body as JSON without line ends; what is no JSON becomes a string.

    >>> in_one_line(b'{\n  "a": 1\n}'), in_one_line(b"Bad Gateway")
    (b'{   "a": 1 }', b'"Bad Gateway"')
    """
    if flaw(body) is None and _is_utf8(body):
        return body.replace(b"\n", b" ").replace(b"\r", b" ")  # within strings they stand escaped
    return msgspec.json.encode(body.decode(errors="replace"))


def _is_utf8(text: bytes) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(text), _PIECE_BYTES):
            decoder.decode(text[start : start + _PIECE_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _is_python_json(text: bytes) -> bool:
    try:
        json.loads(text.decode())
    except (ValueError, RecursionError):
        return False
    return True
