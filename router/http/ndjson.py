"""What a batch consists of: the lines of an NDJSON body, or the items of a JSON list. They are found, never rebuilt.

Bytes in, bytes out: where they come from and what becomes of them, this room does not know.
"""

import codecs
import json
from collections.abc import Generator, Iterator
from typing import NamedTuple

import msgspec

from router.policy.large_json import Malformed, Text, walk

_skim = msgspec.json.Decoder(msgspec.Raw).decode
# What msgspec refuses, workers may take: NaN, half a surrogate pair. The parser that they use builds all that it
# reads, so only what is small is shown to it.
_LENIENT_BYTES = 2**16
# msgspec takes 2 ms for so much. Of what is larger, only its brackets and strings are looked at, a piece at a time; the
# rest the worker says.
_SKIMMED_BYTES = 2**20
# As much is decoded, and written, at once.
PIECE_BYTES = 2**18
BOM = codecs.BOM_UTF8
_SPACE = b" \t\r\n"
# As much of a large text's beginning and end may be space.
_ENDS_BYTES = 4096


class Line(NamedTuple):
    """One line without its end, counted from 1; `text` is None where it was longer than is held."""

    number: int
    text: bytes | bytearray | None


class Lines:
    r"""Splits what comes in parts into lines, and holds the beginning of one, but never more than `max_bytes` of it.

    >>> lines = Lines(max_bytes=3)
    >>> [*lines.feed(b"a\n\nabc"), *lines.feed(b"def\nb"), *lines.end()]
    [Line(number=1, text=b'a'), Line(number=2, text=b''), Line(number=3, text=None), Line(number=4, text=b'b')]
    """

    def __init__(self, max_bytes: float) -> None:
        self._max_bytes = max_bytes
        self._number = 1
        self._held = bytearray()
        self._is_skipped = False

    @property
    def held_bytes(self) -> int:
        """How much is held of the line that has begun."""
        return len(self._held)

    def feed(self, part: bytes) -> Iterator[Line]:
        """Yield the lines that end in `part`."""
        start = 0
        while (end := part.find(b"\n", start)) >= 0:
            self._hold(part[start:end])
            yield self._line()
            start = end + 1
        self._hold(part[start:])

    def pass_over(self, count: int) -> None:
        """Count so many empty lines."""
        self._number += count

    def end(self) -> Iterator[Line]:
        """Yield the last line, where it has no end."""
        if self._held or self._is_skipped:
            yield self._line()

    def skip(self) -> None:
        """Hold nothing of the line that has begun: its text will be None."""
        self._held, self._is_skipped = bytearray(), True

    def _hold(self, piece: bytes) -> None:
        if self._is_skipped or not piece:
            return
        if len(self._held) + len(piece) > self._max_bytes:
            self.skip()
        else:
            self._held += piece

    def _line(self) -> Line:
        held = self._held if len(self._held) > PIECE_BYTES else bytes(self._held)  # what is large is not copied
        line = Line(self._number, None if self._is_skipped else held)
        self._number += 1
        self._held, self._is_skipped = bytearray(), False
        return line


def trimmed(text: Text) -> Text:
    r"""Return a line or an item without a byte order mark and the space around it; of a large one, a view.

    >>> trimmed(b"\xef\xbb\xbf {} \r")
    b'{}'
    """
    if len(text) <= PIECE_BYTES:
        return bytes(text).strip(_SPACE).removeprefix(BOM).strip(_SPACE)
    first, last = bytes(text[:_ENDS_BYTES]), bytes(text[-_ENDS_BYTES:])
    start = _ENDS_BYTES - len(first.lstrip(_SPACE).removeprefix(BOM).lstrip(_SPACE))
    end = len(text) - _ENDS_BYTES + len(last.rstrip(_SPACE))
    return memoryview(text)[start:end]


def flaw(text: Text) -> Generator[None, None, str | None]:
    """Return, after pauses, what keeps `text` from being JSON, as far as that is seen without a worker.

    >>> from router.policy.large_json import finished
    >>> finished(flaw(b'{"a": 1}'))
    >>> finished(flaw(b'{"a": }'))
    'JSON is malformed: invalid character (byte 6)'
    """
    if len(text) <= _SKIMMED_BYTES:
        found = _flaw_at_once(text)
        if found is None or len(text) <= _LENIENT_BYTES:
            return found
    try:
        yield from walk(text)
    except Malformed as error:
        return str(error)
    return None


def flaw_as_job(text: Text) -> Generator[None, None, str | None]:
    """Return, after pauses, what keeps `text` from being a job, as far as that is seen without a worker."""
    if (found := (yield from flaw(text))) is not None:
        return f"expected a JSON object: {found}"
    return None if bytes(text[:_ENDS_BYTES]).lstrip(_SPACE).startswith(b"{") else "expected a JSON object"


def fits_a_line(body: Text) -> Generator[None, None, bool]:
    """Return, after pauses, whether a body is JSON and may stand in a line as it is, but for its line ends."""
    found = _flaw_at_once(body) if len(body) <= _SKIMMED_BYTES else (yield from flaw(body))
    if found is not None:
        return False
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), PIECE_BYTES):
            decoder.decode(bytes(body[start : start + PIECE_BYTES]))
            yield
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def in_one_line(body: Text, *, fits: bool) -> Iterator[bytes]:
    r"""Yield a body, in parts, as JSON without line ends; what does not fit becomes a string.

    >>> b"".join(in_one_line(b'{\n  "a": 1\n}', fits=True)), b"".join(in_one_line(b"Bad Gateway", fits=False))
    (b'{   "a": 1 }', b'"Bad Gateway"')
    """
    pieces = (bytes(body[start : start + PIECE_BYTES]) for start in range(0, len(body), PIECE_BYTES))
    if fits:
        for piece in pieces:
            yield piece.replace(b"\n", b" ").replace(b"\r", b" ")  # within strings they stand escaped
        return
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    yield b'"'
    for piece in pieces:
        yield msgspec.json.encode(decoder.decode(piece))[1:-1]
    yield msgspec.json.encode(decoder.decode(b"", final=True))[1:-1] + b'"'


def _flaw_at_once(text: Text) -> str | None:
    try:
        _skim(text)
    except (msgspec.DecodeError, RecursionError) as error:
        return None if len(text) <= _LENIENT_BYTES and _is_python_json(bytes(text)) else str(error)
    return None


def _is_python_json(text: bytes) -> bool:
    try:
        json.loads(text.decode())
    except (ValueError, RecursionError):
        return False
    return True
