"""One small change of a file."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutant:
    """The bytes of `path` from `start` to `end` become `new`; `place` is the function that they are in."""

    path: str
    place: str
    start: int
    end: int
    new: bytes

    def applied(self, source: bytes) -> bytes:
        """Return the changed file."""
        return source[: self.start] + self.new + source[self.end :]

    def line(self, source: bytes) -> int:
        """Return the number of the first line that is changed."""
        return source.count(b"\n", 0, self.start) + 1

    def lines(self, source: bytes) -> tuple[int, int]:
        """Return the numbers of the first line that is changed, and of the one after the last."""
        first = self.line(source)
        return first, first + source.count(b"\n", self.start, self.end) + 1

    def told(self, source: bytes) -> str:
        r"""Return what is changed, in a line that stays the same when the file grows elsewhere.

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
