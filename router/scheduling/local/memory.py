"""Decides whether a worker has the memory for a job, and which line waits for it.

If the job whose turn it is finds a slot but not the memory, its line reserves a worker: that one has no room for other
lines, and the line has no turn, until its head fits there. So small jobs do not starve a large one. lua/memory.lua
decides alike.

While Redis is away each process has its share of a worker's memory. A job larger than the share may still run, if the
process runs nothing else there: the share is at least one job, as that of a cap is.
"""

import math
from collections.abc import Callable, Collection

from router.scheduling.local.order import Line


class Memory:
    """The reservations, by URL.

    `leases` gives the names of a worker's leases, and `limit` its memory; None: it is not counted. So many `processes`
    have a share of it.
    """

    def __init__(self, leases: Callable[[str], Collection[str]], limit: Callable[[str], int | None]) -> None:
        self.reserved: dict[str, Line] = {}
        self.processes = 1
        self._leases = leases
        self._limit = limit

    def fits(self, url: str, memory_mb: int) -> bool:
        """Whether the worker has so much memory free."""
        limit = self._limit(url)
        if not memory_mb or limit is None:
            return True
        taken = self._taken(url)
        return memory_mb <= (self._share(limit) - taken if taken else limit)

    def has_reserved(self, line: Line) -> bool:
        """Whether the line waits for a worker that it has reserved."""
        return line in self.reserved.values()

    def is_large_enough(self, url: str, memory_mb: int) -> bool:
        """Whether the job fits on the worker when nothing else runs there."""
        limit = self._limit(url)
        return limit is None or limit >= memory_mb

    def has_tried_all(self, urls: Collection[str], tried: Collection[str], memory_mb: int) -> bool:
        """Whether a job has tried those of these workers that are large enough for it; not if there are no workers."""
        return bool(urls and tried) and {url for url in urls if self.is_large_enough(url, memory_mb)}.issubset(tried)

    def reserve(self, urls: Collection[str], memory_mb: int, line: Line) -> bool:
        """Reserve the one of these workers with the most memory free that is large enough; return whether one is."""
        large = [url for url in urls if self.is_large_enough(url, memory_mb)]
        if not large:
            return False
        self.reserved[min(large, key=lambda url: (-self._free(url), url))] = line
        return True

    def _free(self, url: str) -> int:
        return self._share(self._limit(url) or 0) - self._taken(url)

    def _share(self, limit: int) -> int:
        return math.ceil(limit / self.processes)

    def _taken(self, url: str) -> int:
        return sum(memory_of(lease) for lease in self._leases(url))


def memory_of(lease: str) -> int:
    """Return how much memory the job takes that runs under the lease of this name.

    >>> memory_of("p:1"), memory_of("p:1 run-7 0"), memory_of("p:1 default 512")
    (0, 0, 512)
    """
    return int(lease.rpartition(" ")[2]) if " " in lease else 0
