"""Decides which arriving jobs share a run with an identical one, and which answers are kept for further ones.

A process has one run of a key; its own jobs share that without asking. lua/reuse.lua decides alike.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from router.scheduling.messages import Arrival, Call, RunOver, SharedRun


@dataclass(slots=True)
class _Run:
    """A run, until when (ms) others share it or its answer, and the processes that wait for it.

    It is pending or running while it has an `owner`. After that it has an `answer`; "": others run by themselves.
    """

    until: int
    owner: str = ""
    answer: str = ""
    others: list[str] = field(default_factory=list)


class SharedRuns:
    """The runs and the answers by key; answers of `most_bytes` in all."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self.woken: dict[str, list[str]] = {}  # process → keys of the runs that its jobs waited for
        self._runs: dict[str, _Run] = {}
        # Of each answer the moment at which it is dropped, and `key size`; the heap may have some that are dropped.
        self._kept: dict[str, tuple[int, str]] = {}
        self._by_end: list[tuple[int, str]] = []
        self._held_bytes = 0
        self._apart: list[tuple[int, str]] = []  # a heap: until when runs without an answer are remembered, their keys

    def share(
        self, call: Call, arrival: Arrival, ticket: int, now: int, is_alive: Callable[[str], bool]
    ) -> SharedRun | None:
        """Return what an arriving job shares. None if it runs; others share its run if it wishes that."""
        number, process = arrival.number, call.process
        wish = next((wish for wish in call.wishes if wish.number == number and wish.reuse_ms), None)
        if wish is None:
            return None
        run = self._runs.get(wish.key)
        others: list[str] = []
        if run is not None:
            is_valid = run.until > now
            if is_valid and run.answer:
                return SharedRun(number, ticket, "", run.answer)
            if is_valid and not run.owner:
                return None
            if is_valid and run.owner != process and is_alive(run.owner):
                if process not in run.others:
                    run.others.append(process)
                return SharedRun(number, ticket, run.owner)
            others = run.others
        ms = max(1, arrival.wait_ms + arrival.bound_ms)
        self._runs[wish.key] = _Run(now + ms, process, others=others)
        return None

    def shares(
        self,
        call: Call,
        arrival: Arrival,
        ticket: int,
        now: int,
        is_alive: Callable[[str], bool],
        shared: list[SharedRun],
    ) -> bool:
        """Let an arriving job share a run, which `shared` then has; return whether it does, and gets no lease."""
        its = self.share(call, arrival, ticket, now, is_alive)
        if its is not None:
            shared.append(its)
        return its is not None

    def end_all(self, call: Call, now: int) -> None:
        """Take in which runs of the calling process are over, and wake those that wait for them."""
        for over in call.runs_over:
            for process in self._end(call.process, over, now):
                self.woken.setdefault(process, []).append(over.key)
        if call.runs_over:
            self._drop_answers(now)

    def _end(self, process: str, over: RunOver, now: int) -> list[str]:
        run = self._runs.get(over.key, _Run(0))
        if not over.answer and run.owner != process:
            return []
        self._drop(over.key)
        if over.ms:
            self._runs[over.key] = _Run(now + over.ms, answer=over.answer)
        else:
            self._runs.pop(over.key, None)
        if over.answer:
            self._kept[over.key] = kept = now + over.ms, f"{over.key} {len(over.answer)}"
            self._held_bytes += len(over.answer)
            heapq.heappush(self._by_end, kept)
        else:
            heapq.heappush(self._apart, (now + over.ms, over.key))
        return [other for other in run.others if other != process]

    def _drop_answers(self, now: int) -> None:
        """Forget answers that nobody gets any more, and drop the first of them while there are too many."""
        while self._by_end and (self._by_end[0][0] <= now or self._held_bytes > self._most_bytes):
            kept = heapq.heappop(self._by_end)
            key = kept[1].partition(" ")[0]
            if self._kept.get(key) == kept:
                self._drop(key)
                self._forget(key)
        while self._apart and self._apart[0][0] <= now:
            until, key = heapq.heappop(self._apart)
            if key in self._runs and self._runs[key].until == until:
                self._forget(key)

    def _drop(self, key: str) -> None:
        """Count the answer of this key, if there is one, no longer."""
        if (kept := self._kept.pop(key, None)) is not None:
            self._held_bytes -= int(kept[1].rpartition(" ")[2])

    def _forget(self, key: str) -> None:
        """Remember a run no longer, unless it is a new one that is pending or running."""
        if key in self._runs and not self._runs[key].owner:
            del self._runs[key]
