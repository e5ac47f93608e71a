"""Reads from a job's body what its worker must have: the language, and how much memory the job may use.

Like its time limits, they are read as the worker reads them, by Python's parser and pydantic. A value that the worker
will refuse counts as absent: then any worker can refuse the job.
"""

import json
from typing import Any

import msgspec
from pydantic import TypeAdapter, ValidationError

from router.policy.deadline import shape
from router.policy.placement import LANGUAGE

_int = TypeAdapter(int).validate_python


class Needs(msgspec.Struct, frozen=True):
    """`language` "": any language. `memory_mb` None: the job sets no limit; 0: it runs no code."""

    language: str = ""
    memory_mb: int | None = None


_NOTHING = Needs()


class NeedsReader:
    """Reads a body's fields `language` and `memory`, each named by its path. If they are absent, `otherwise` counts."""

    def __init__(self, language: str = "", memory: str = "", otherwise: Needs = _NOTHING) -> None:
        self._language = tuple(language.split(".")) if language else ()
        self._memory = tuple(memory.split(".")) if memory else ()
        self._otherwise = otherwise
        self.fields = tuple(name for name in (language, memory) if name)
        paths = [path for path in (self._language, self._memory) if path]
        self._decode = msgspec.json.Decoder(shape(paths, Any)).decode

    def needs(self, body: bytes | bytearray) -> Needs:
        """Return what the job needs. `body` is at most SMALL_BYTES long; for a larger body, it is the excerpt.

        >>> reader = NeedsReader("language", "memory_limit_MB")
        >>> reader.needs(b'{"code": "", "language": "cpp", "memory_limit_MB": "512"}')
        Needs(language='cpp', memory_mb=512)
        >>> reader.needs(b'{"language": 5, "memory_limit_MB": -1}'), reader.needs(b"not JSON")
        (Needs(language='', memory_mb=None), Needs(language='', memory_mb=None))
        """
        if not self.fields:
            return self._otherwise
        told: Any
        try:
            told = self._decode(body)
        except (msgspec.DecodeError, RecursionError):  # the worker may still accept it
            try:
                told = json.loads(body)
            except (ValueError, RecursionError):
                return self._otherwise
        language, memory_mb = _named(told, self._language), _whole(_named(told, self._memory))
        return Needs(
            language if isinstance(language, str) and LANGUAGE.fullmatch(language) else self._otherwise.language,
            memory_mb if memory_mb is not None and memory_mb > 0 else self._otherwise.memory_mb,
        )


def _named(told: Any, path: tuple[str, ...]) -> object:
    """Return a field's value; None if it is absent."""
    if not path:
        return None
    for name in path:
        told = told.get(name) if isinstance(told, dict) else getattr(told, name, None)
    value: object = told
    return value


def _whole(value: object) -> int | None:
    """Return a number as pydantic reads it for the worker; None if it is refused."""
    try:
        return None if value is None else _int(value)
    except ValidationError:
        return None
