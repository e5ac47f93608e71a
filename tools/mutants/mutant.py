"""One small change of a file."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change: the bytes of `path` from `start` to `end` become `new`. `place` is the function around them."""

    path: str
    place: str
    start: int
    end: int
    new: bytes

    def applied(self, source: bytes) -> bytes:
        """Return the changed file."""
        return source[: self.start] + self.new + source[self.end :]

    def line(self, source: bytes) -> int:
        """Return the number of the first changed line."""
        return source.count(b"\n", 0, self.start) + 1

    def lines(self, source: bytes) -> tuple[int, int]:
        """Return the numbers of the first changed line, and of the line after the last one."""
        first = self.line(source)
        return first, first + source.count(b"\n", self.start, self.end) + 1

    def told(self, source: bytes) -> str:
        r"""Describe the change in one line, which stays the same if other lines of the file change.

        >>> Mutant("a.py", "f", 13, 14, b"<=").told(b"if x:\n  if y < 3:\n")
        'a.py f: if y < 3: -> if y <= 3:'
        """
        first = source.rfind(b"\n", 0, self.start) + 1
        last = source.find(b"\n", self.end)
        old, tail = source[first:last], source[self.end : last]
        new = source[first : self.start] + self.new + tail
        return f"{self.path} {self.place}: {_squeezed(old)} -> {_squeezed(new)}"


def _squeezed(text: bytes) -> str:
    return " ".join(text.decode().split())
