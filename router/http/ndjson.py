"""Splits a batch's body into lines, checks that they are JSON, and writes answers as lines.

Lines are passed on as they came, never rebuilt. This module takes and returns bytes; it knows no batch and no job.
"""

import codecs
import json
from collections.abc import Generator, Iterator
from typing import NamedTuple

import msgspec

from router.policy.large_json import Malformed, Text, walk

_skim = msgspec.json.Decoder(msgspec.Raw).decode
# Workers may accept what msgspec rejects, such as NaN or half a surrogate pair. A text up to this size that msgspec
# rejects is tried with their parser, which is slow because it builds every value.
_LENIENT_BYTES = 2**16
# Up to this size msgspec checks the whole text at once. Of a larger text only brackets and strings are checked, a piece
# at a time; the worker finds the other errors.
_SKIMMED_BYTES = 2**20
# Decoded and written at once; others have their turn between two pieces.
PIECE_BYTES = 2**18
BOM = codecs.BOM_UTF8
_SPACE = b" \t\r\n"
# Space at the beginning and the end of a large text is looked for within this many bytes.
_ENDS_BYTES = 4096


class Line(NamedTuple):
    """One line without its line end, numbered from 1; `text` is None if it was too long to be held."""

    number: int
    text: bytes | bytearray | None


class Lines:
    r"""Splits a body that comes in parts into lines, and holds at most `max_bytes` of an unfinished line.

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
        """The bytes held of the unfinished line."""
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
        """Count `count` empty lines that were skipped."""
        self._number += count

    def end(self) -> Iterator[Line]:
        """Yield the last line, if it has no line end."""
        if self._held or self._is_skipped:
            yield self._line()

    def skip(self) -> None:
        """Drop the unfinished line: its text will be None."""
        self._held, self._is_skipped = bytearray(), True

    def _hold(self, piece: bytes) -> None:
        if self._is_skipped or not piece:
            return
        if len(self._held) + len(piece) > self._max_bytes:
            self.skip()
        else:
            self._held += piece

    def _line(self) -> Line:
        held = self._held if len(self._held) > PIECE_BYTES else bytes(self._held)  # a large line is not copied
        line = Line(self._number, None if self._is_skipped else held)
        self._number += 1
        self._held, self._is_skipped = bytearray(), False
        return line


def trimmed(text: Text) -> Text:
    r"""Return a line or an item without its byte order mark and surrounding space; a view, if it is large.

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
    """Return why `text` is not JSON, or None if no error is found here; yields between pieces of a large text.

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
    """Return why `text` is not a job, or None if no error is found here; yields as `flaw` does."""
    if (found := (yield from flaw(text))) is not None:
        return f"expected a JSON object: {found}"
    return None if bytes(text[:_ENDS_BYTES]).lstrip(_SPACE).startswith(b"{") else "expected a JSON object"


def fits_a_line(body: Text) -> Generator[None, None, bool]:
    """Return whether a body is JSON in UTF-8, so that it fits in a line once its line ends are replaced.

    Yields between pieces of a large body.
    """
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
    r"""Yield a body, in parts, as JSON without line ends; one that does not fit (`fits_a_line`) becomes a string.

    >>> b"".join(in_one_line(b'{\n  "a": 1\n}', fits=True)), b"".join(in_one_line(b"Bad Gateway", fits=False))
    (b'{   "a": 1 }', b'"Bad Gateway"')
    """
    pieces = (bytes(body[start : start + PIECE_BYTES]) for start in range(0, len(body), PIECE_BYTES))
    if fits:
        for piece in pieces:
            yield piece.replace(b"\n", b" ").replace(b"\r", b" ")  # within strings they are escaped
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
