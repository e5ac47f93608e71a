"""Decides whether a worker has the memory for a job, and which line waits for it.

If the job whose turn it is finds a slot but not the memory, its line reserves a worker: that one has no room for other
lines, and the line has no turn, until its head fits there. So small jobs do not starve a large one. lua/memory.lua
decides alike.
"""

from collections.abc import Callable, Collection

from router.scheduling.local.order import Line


class Memory:
    """The reservations, by URL.

    `leases` gives the names of a worker's leases, and `limit` its memory; None: it is not counted.
    """

    def __init__(self, leases: Callable[[str], Collection[str]], limit: Callable[[str], int | None]) -> None:
        self.reserved: dict[str, Line] = {}
        self._leases = leases
        self._limit = limit

    def fits(self, url: str, memory_mb: int) -> bool:
        """Whether the worker has so much memory free."""
        return not memory_mb or (free := self._free(url)) is None or free >= memory_mb

    def has_reserved(self, line: Line) -> bool:
        """Whether the line waits for a worker that it has reserved."""
        return line in self.reserved.values()

    def is_large_enough(self, url: str, memory_mb: int) -> bool:
        """Whether the job fits on the worker when nothing else runs there."""
        limit = self._limit(url)
        return limit is None or limit >= memory_mb

    def reserve(self, urls: Collection[str], memory_mb: int, line: Line) -> bool:
        """Reserve the one of these workers with the most memory free that is large enough; return whether one is."""
        large = [url for url in urls if self.is_large_enough(url, memory_mb)]
        if not large:
            return False
        self.reserved[min(large, key=lambda url: (-(self._free(url) or 0), url))] = line
        return True

    def _free(self, url: str) -> int | None:
        limit = self._limit(url)
        return None if limit is None else limit - sum(memory_of(lease) for lease in self._leases(url))


def memory_of(lease: str) -> int:
    """Return how much memory the job takes that runs under the lease of this name.

    >>> memory_of("p:1"), memory_of("p:1 run-7 0"), memory_of("p:1 default 512")
    (0, 0, 512)
    """
    return int(lease.rpartition(" ")[2]) if " " in lease else 0
