"""Decides which pools a fleet has, from what its workers have: their labels, languages and memory."""

from collections.abc import Iterable
from functools import cached_property
from typing import Protocol

import msgspec

from router.policy.placement import serves


class Able(Protocol):
    """A worker as far as pools go: which jobs it can run. Policy may not import the fleet's."""

    @property
    def labels(self) -> tuple[str, ...]:
        """What it has."""

    @property
    def languages(self) -> tuple[str, ...]:
        """What it runs; none: every language."""

    @property
    def memory_mb(self) -> int | None:
        """Its memory for jobs; None: not counted."""


class Pool(msgspec.Struct, frozen=True):
    """The workers that can run a kind of job. `largest_mb` None: one of them takes jobs of any size."""

    is_empty: bool
    largest_mb: int | None = None


class Pools:
    """The pools of these workers. Most workers of a fleet are alike, so only each kind of worker is looked at.

    `kinds` are these kinds, by labels and languages, each with the memory of its largest worker; None: one of them does
    not count it. `counts_memory`: the memory of any worker is counted.
    """

    def __init__(self, workers: Iterable[Able]) -> None:
        self.kinds: dict[tuple[tuple[str, ...], tuple[str, ...]], int | None] = {}
        self._known: dict[str, Pool] = {}
        self.counts_memory = False
        for worker in workers:
            kind, memory_mb = (worker.labels, worker.languages), worker.memory_mb
            largest_mb = self.kinds.get(kind, 0)
            self.kinds[kind] = None if memory_mb is None or largest_mb is None else max(memory_mb, largest_mb)
            self.counts_memory = self.counts_memory or memory_mb is not None

    @cached_property
    def labels(self) -> frozenset[str]:
        """All labels that any worker has."""
        return frozenset(label for labels, _ in self.kinds for label in labels)

    @cached_property
    def lists_languages(self) -> bool:
        """Whether any worker lists languages; if none does, languages do not count."""
        return any(languages for _, languages in self.kinds)

    def pool(self, name: str) -> Pool:
        """Return the pool of this name, as placement.pool_name gives it.

        >>> from types import SimpleNamespace as Worker
        >>> pools = Pools([Worker(labels=("gpu",), languages=(), memory_mb=4000)])
        >>> pools.pool("gpu;python"), pools.pool("ib")
        (Pool(is_empty=False, largest_mb=4000), Pool(is_empty=True, largest_mb=0))
        """
        if (known := self._known.get(name)) is None:
            fitting = [largest_mb for kind, largest_mb in self.kinds.items() if serves(name, *kind)]
            known = Pool(not fitting, None if None in fitting else max((each or 0 for each in fitting), default=0))
            self._known[name] = known
        return known
