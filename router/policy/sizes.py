"""Decides which jobs are alike in size, and how what was seen of them makes one size.

A size is the time, in milliseconds, that a job takes on a worker of normal speed. For test cases it is the input that
repeats over rollouts and epochs while the code changes. So the code is not looked at.
"""

from collections import deque
from collections.abc import Generator
from hashlib import blake2b

import msgspec

from router.policy.large_json import PIECE_BYTES, Fields, Malformed, Text, names_at, scalar_at

# A mean weighs at most so much against a new size, so that it follows when the jobs of a key change.
MAX_WEIGHT = 32
# The median of a tenant is that of so many of its latest sizes.
_RECENT = 255
# 96 bits: among all keys that Redis holds, no two are ever the same by chance.
_KEY_BYTES = 12
_READ_AT_ONCE = 8 * PIECE_BYTES

# By these fields of their bodies jobs are alike, besides the names of their files.
_OF_PROBLEM, _OF_CODE, _FILES = ("dataset", "id"), ("language", "stdin"), "files"
_PROBLEMS = "/submit"
_places = Fields([(name,) for name in (*_OF_PROBLEM, *_OF_CODE, _FILES)]).places
_NOTHING = msgspec.Raw(b"")
# Between two parts of what is hashed; in JSON it is only written with an escape.
_THEN = b"\0"


class _Body(msgspec.Struct):
    """What jobs are told apart by: values as they are written, so that nothing else of a body is read."""

    language: msgspec.Raw = _NOTHING
    stdin: msgspec.Raw = _NOTHING
    dataset: msgspec.Raw = _NOTHING
    id: msgspec.Raw = _NOTHING
    files: msgspec.Raw = _NOTHING


_read_body = msgspec.json.Decoder(_Body).decode
_read_name = msgspec.json.Decoder(str).decode
_read_files = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def size_key(tenant: str, name: bytes) -> str:
    """Return the key of a tenant's jobs of this name: the client's own (x-router-size-key), or what `kind_of` finds.

    >>> size_key("run-7", b"p1") == size_key("run-7", b"p1") != size_key("run-8", b"p1")
    True
    """
    return blake2b(b"%s\0%s" % (tenant.encode(), name), digest_size=_KEY_BYTES).hexdigest()


def median_key(tenant: str) -> str:
    """Return the key of the median of a tenant's sizes: no client's name has a line break."""
    return size_key(tenant, b"median\n")


def kind_of(path: str, body: bytes | bytearray | memoryview) -> bytes:
    """Return a hash of what jobs that are alike have in common; b"" if the body cannot be read.

    >>> kind_of("/run_code", b'{"code": "a", "stdin": "1"}') == kind_of("/run_code", b'{"stdin": "1", "code": "b"}')
    True
    >>> kind_of("/run_code", b"not JSON")
    b''
    """
    try:
        told = _read_body(body)
        names = sorted(_read_files(told.files)) if bytes(told.files).startswith(b"{") else []
    except (msgspec.DecodeError, RecursionError):
        return b""
    fields = (told.dataset, told.id) if path == _PROBLEMS else (told.language, told.stdin)
    parts = [path.encode(), *fields, *[name.encode() for name in names]]
    return blake2b(_THEN.join(parts), digest_size=_KEY_BYTES).digest()


def kind_of_large(path: str, body: Text) -> Generator[None, None, bytes]:
    """Return the same for a large body; yields after each piece.

    >>> from router.policy.large_json import finished
    >>> body = b'{"code": "a", "files": {"b": "", "a": null}, "stdin": "1 2"}'
    >>> finished(kind_of_large("/run_code", body)) == kind_of("/run_code", body)
    True
    """
    try:
        places = yield from _places(body)
        kind = blake2b(path.encode(), digest_size=_KEY_BYTES)
        for name in _OF_PROBLEM if path == _PROBLEMS else _OF_CODE:
            kind.update(_THEN)
            start, end = (yield from scalar_at(body, places[name])) if name in places else (0, 0)
            for at in range(start, end, _READ_AT_ONCE):
                kind.update(body[at : min(end, at + _READ_AT_ONCE)])
                yield
        names = (yield from names_at(body, places[_FILES])) if _FILES in places else []
        for file in sorted([_read_name(b'"%s"' % name) for name in names]):
            kind.update(_THEN + file.encode())
    except (Malformed, msgspec.DecodeError):
        return b""
    return kind.digest()


def merged(mean: float, count: float, more: float, times: float) -> tuple[float, float]:
    """Return a mean of `count` values, and its count, after so many `times` of another value.

    >>> merged(100.0, 1, 200.0, 1), merged(100.0, MAX_WEIGHT, 200.0, MAX_WEIGHT), merged(0.0, 0, 200.0, 3)
    ((150.0, 2), (150.0, 32), (200.0, 3))
    """
    return mean + (more - mean) * times / (count + times), min(count + times, MAX_WEIGHT)


class Recent(deque[float]):
    """The latest sizes of one tenant."""

    def __init__(self) -> None:
        super().__init__(maxlen=_RECENT)

    def median(self) -> float:
        """Return their median; there is at least one."""
        return sorted(self)[len(self) // 2]
