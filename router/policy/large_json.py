"""Reads JSON that is too large to be parsed at once, piece by piece; other jobs have their turns in between.

A parser written in C would stop the whole process while it reads a large text. A thread does not help, because the
parser keeps the interpreter's lock. So large text is only walked: regular expressions skip strings and nested values,
one piece at a time. Well-formed JSON is understood; for other text the only promise is that the walk ends.
"""

import re
from collections.abc import Generator, Iterator, Mapping
from typing import TypeAlias, TypeVar

# Skipped in one step; small enough that even slow text, with many escapes, does not hold up other jobs.
PIECE_BYTES = 2**15
_FAR_BYTES = 2**20
# So many quotes in a string are looked for in one step. Where one follows this closely, a regular expression is faster,
# and skips so many bytes.
_QUOTES, _NEAR_BYTES, _CROWDED_BYTES = 32, 32, 2**10
# A step in Python costs as much as skipping about this many bytes in C.
_STEP_BYTES = 40
# A worker's parser refuses JSON that is nested this deep.
_MOST_DEPTH = 10_000


def _all_of(part: bytes) -> bytes:
    """Return what matches as many of `part` as there are, and gives none back.

    An atomic group, and not the possessive `*+`: Python before 3.11.5 does not go back to where a repeat began that
    fails half-way (https://github.com/python/cpython/issues/106052). Debian 12 has 3.11.2.
    """
    return rb"(?>(?:" + part + rb")*)"


_CHARACTERS = rb'[^"\\]++|\\.'
# Most strings have no escaped quote, so their first quote ends them, and is found faster than all escapes. Else the
# string is gone through, and gives nothing back: the matcher would remember each escape.
_STRING = rb'"(?>[^"]*+(?<!\\)"|(?=[^"]*+")' + _all_of(_CHARACTERS) + rb'")'
_PLAIN = rb'[^"\[\]{}]++'
# Values nested this deep are skipped in one step. Each further level costs as much again if a piece ends within them.
_LEVELS = 12
_OPENS, _BRACKETS, _QUOTE = b"[{", b"[]{}", b'"'


def _nested(levels: int) -> bytes:
    inner = _PLAIN + b"|" + _STRING
    for _ in range(levels):
        inner = _PLAIN + b"|" + _STRING + rb"|[\[{]" + _all_of(inner) + rb"[\]}]"
    return inner


_DEEP = re.compile(_all_of(_nested(_LEVELS)), re.DOTALL)
_ONE_VALUE = rb"[\[{]" + _all_of(_nested(_LEVELS - 1)) + rb"[\]}]"
_IN_STRING = re.compile(_all_of(_CHARACTERS), re.DOTALL)
_ITEMS = re.compile(_all_of(rb'[^"\[\]{},]++|' + _STRING + rb"|" + _ONE_VALUE), re.DOTALL)
_COMMA = re.compile(b",")
_NOTHING = re.compile(rb"(?!)")
_BEGIN = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]{0,9999}+")
# A slice of a memoryview is no copy.
Text: TypeAlias = bytes | bytearray | memoryview
# A number, a word or a short string. No worker takes a longer or nested value for a number of seconds.
_SCALAR = re.compile(rb'[ \t\r\n]{0,999}+("(?:[^"\\]|\\.){0,999}+"|[^"\[\]{},\x00-\x20]{1,4999}+)', re.DOTALL)

Found = TypeVar("Found")
Pattern: TypeAlias = "re.Pattern[bytes]"
# A walk yields None after each piece, so that other jobs get their turns.
Walk: TypeAlias = Generator[None, None, bytes]


class Malformed(ValueError):
    """The text is no JSON; the message gives the reason."""


def _named(name: bytes) -> tuple[Pattern, Pattern]:
    """Return what matches the name of a member, and what matches all that can be skipped before the next one."""
    named = rb'"(' + name + rb')"[ \t\r\n]{0,999}+:'
    # A string is skipped only if the text after it is there; at the end of a piece it waits for the next piece.
    other = rb"(?!" + named + rb")" + _STRING + rb"(?=[ \t\r\n]{0,999}+[^ \t\r\n])"
    return re.compile(named, re.DOTALL), re.compile(_all_of(rb'[^"\[\]{}]++|' + other + rb"|" + _ONE_VALUE), re.DOTALL)


_ANY_NAME, _PASSED_ANY = _named(rb'(?:[^"\\]|\\.){0,4999}+')


def items(text: Text) -> Iterator[tuple[int, int] | None]:
    """Yield start and end of each item of a JSON list, with the space around it, and None after each piece.

    Raises Malformed if the list, or any value in it longer than a piece, has no end, or if text follows the list.

    >>> text = b'[{"a": "],"}, [1, 2]]'
    >>> [text[slice(*place)] for place in items(text) if place is not None]
    [b'{"a": "],"}', b' [1, 2]']
    """
    begin = start = _begin(text, 0) + 1
    for mark in _marks(text, 0, _ITEMS, _COMMA):
        if mark is None:
            yield None
            continue
        place = mark if isinstance(mark, int) else mark.start()
        if isinstance(mark, re.Match) or start > begin or _begin(text, start) < place:
            yield start, place
        start = place + 1


def walk(text: Text) -> Generator[None]:
    """Walk a list or object. Raises Malformed if it has no end, or if text follows it."""
    if bytes(text[_begin(text, 0) :][:1]) not in (b"{", b"["):
        raise Malformed("expected a JSON list or object")
    for mark in _marks(text, 0, _DEEP, _NOTHING):
        if mark is None:
            yield


class Fields:
    """Finds the members of JSON objects at these paths of names, from the outermost object inwards.

    Members with the same names elsewhere are skipped. If a name is there twice, the last one counts, as for Python's
    parser.
    """

    def __init__(self, paths: list[tuple[str, ...]]) -> None:
        self._inner: Mapping[str, Fields | None] = {
            name: Fields(rest) if (rest := [path[1:] for path in paths if path[0] == name and path[1:]]) else None
            for name in dict.fromkeys(path[0] for path in paths)
        }
        names = b"|".join(re.escape(name.encode()) for name in self._inner)
        # The plain names, or any name that is written with escapes of ASCII characters.
        escaped = rb'(?=[^"\\]{0,99}+\\u00)[^"]{1,600}+'
        self._name, self._passed = _named(names + b"|" + escaped)

    def excerpt(self, text: Text, start: int = 0) -> Walk:
        r"""Walk the JSON object at `start`; return an object with only these members. Raises Malformed.

        >>> steps = Fields([("a",)]).excerpt(b'{"b": {"a": 1}, "a": 2.5, "c": "\"a\": 3"}')
        >>> finished(steps)
        b'{"a":2.5}'
        """
        members: list[bytes] = []
        for name, place in (yield from self.places(text, start)).items():
            if (inner := self._inner[name]) is not None:
                value = yield from inner.excerpt(text, place)
            else:
                scalar = _SCALAR.match(text, place)
                # A value that is no scalar is no number of seconds; nor is [].
                value = b"[]" if scalar is None else scalar[1]
            members.append(b'"%s":%s' % (name.encode(), value))
        return b"{%s}" % b",".join(members)

    def places(self, text: Text, start: int = 0) -> Generator[None, None, dict[str, int]]:
        """Walk the JSON object at `start`; return where the values of the outermost names begin. Raises Malformed."""
        found: dict[str, int] = {}
        begin = _begin(text, start)
        if bytes(text[begin : begin + 1]) != b"{":
            raise Malformed("expected a JSON object")
        for mark in _marks(text, start, self._passed, self._name, is_all=start == 0):
            if mark is None:
                yield
            elif isinstance(mark, re.Match) and (name := _unescaped(mark[1])) in self._inner:
                found[name] = mark.end()
        return found


def scalar_at(text: Text, place: int) -> Generator[None, None, tuple[int, int]]:
    r"""Return start and end of the string, number or word at `place`; both are the same for a nested value.

    >>> text = rb'{"a": "1\n2", "b": null}'
    >>> [text[slice(*finished(scalar_at(text, place)))].decode() for place in (5, 18, 0)]
    ['"1\\n2"', 'null', '']
    """
    begin = _begin(text, place)
    if bytes(text[begin : begin + 1]) == _QUOTE:
        return begin, (yield from _past_string(text, begin))
    match = _SCALAR.match(text, begin)
    return begin, begin if match is None else match.end()


def names_at(text: Text, place: int) -> Generator[None, None, list[bytes]]:
    r"""Return the names of the members of the JSON object at `place`, as they are written; none for another value.

    >>> finished(names_at(rb'{"a": {"b": 1}, "c": "\"d\":"}', 0))
    [b'a', b'c']
    """
    names: list[bytes] = []
    begin = _begin(text, place)
    if bytes(text[begin : begin + 1]) == b"{":
        for mark in _marks(text, begin, _PASSED_ANY, _ANY_NAME, is_all=False):
            if mark is None:
                yield
            elif isinstance(mark, re.Match):
                names.append(mark[1])
    return names


def finished(steps: Generator[None, None, Found]) -> Found:
    """Return what `steps` return, without pauses."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: Found = end.value
            return found


def _unescaped(name: bytes) -> str:
    return re.sub(rb"\\u00([0-7][0-9a-fA-F])", lambda found: bytes([int(found[1], 16)]), name).decode(errors="replace")


def _begin(text: Text, start: int) -> int:
    """Return where the value at `start` begins, after space."""
    match = _BEGIN.match(text, start)
    return start if match is None else match.end()


def _marks(
    text: Text, start: int, passed: Pattern, wanted: Pattern, *, is_all: bool = True
) -> Generator["re.Match[bytes] | int | None"]:
    """Walk the list or object at `start`; yield each match of `wanted` at its own level, and last the place of its end.

    `passed` matches text that can be skipped there. Yields None after each piece. `is_all`: no text may follow. Raises
    Malformed.
    """
    size, depth, worked = len(text), 1, 0
    place = _begin(text, start) + 1
    while place < size:
        if worked >= PIECE_BYTES:
            worked = 0
            yield None
        before, end = place, min(place + PIECE_BYTES, size)
        match = passed.match(text, place, end) if depth == 1 else _DEEP.match(text, place, end)
        place = place if match is None else match.end()
        worked += place - before + _STEP_BYTES
        token = bytes(text[place:end][:1])
        if token and token in _BRACKETS:
            depth += 1 if token in _OPENS else -1
            if depth == 0:
                break
            if depth > _MOST_DEPTH:
                raise Malformed("JSON is malformed: it is too deep")
            place += 1
        elif token and depth == 1 and (mark := wanted.match(text, place)):
            yield mark
            place = mark.end()
        elif token == _QUOTE:  # a string that is no such name, and does not end in this piece
            place = yield from _past_string(text, place)
    else:
        raise Malformed("Input data was truncated")
    yield place
    if is_all and (after := _begin(text, place + 1)) < size:
        raise Malformed(f"JSON is malformed: trailing characters (byte {after + 1})")


def _past_string(text: Text, place: int) -> Generator[None, None, int]:
    place += 1
    while place < len(text) and bytes(text[place : place + 1]) != _QUOTE:
        yield
        place = _in_string(text, place)
    return place + 1


def _in_string(text: Text, place: int) -> int:
    """Return where the string around `place` ends, or where its next piece begins; no escape begins before `place`."""
    if isinstance(text, memoryview):  # which has no find
        return _past_characters(text, place, PIECE_BYTES)
    far = min(place + _FAR_BYTES, len(text))
    for _ in range(_QUOTES):
        quote = text.find(_QUOTE, place, far)
        stop = far if quote < 0 else quote
        before = bytes(text[max(place, stop - _NEAR_BYTES) : stop])
        backslashes = len(before) - len(before.rstrip(b"\\"))
        if backslashes % 2 == 0 and backslashes < _NEAR_BYTES:
            return stop
        if backslashes == _NEAR_BYTES:
            return _past_characters(text, place, PIECE_BYTES)
        if len(before) < _NEAR_BYTES:
            place = _past_characters(text, place, _CROWDED_BYTES)
            if text[place : place + 1] == _QUOTE:
                return place
        else:
            place = stop + 1  # behind an escaped quote, or behind a character whose escape is cut
        if place >= far:
            break
    return place


def _past_characters(text: Text, place: int, most: int) -> int:
    end = min(place + most, len(text))
    match = _IN_STRING.match(text, place, end)
    at = place if match is None else match.end()
    return at if at > place else end  # a backslash at the end of the piece
