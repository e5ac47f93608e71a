"""Decides which arriving jobs share a run with an identical one, and which answers are kept for further ones.

A process has one run of a key; its own jobs share that without asking. lua/reuse.lua decides alike.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from router.scheduling.messages import RunOver, SharedRun, Wish


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
        self._runs: dict[str, _Run] = {}
        self._kept: dict[str, tuple[int, str]] = {}  # the moment at which an answer is dropped, and its order

    def shares(
        self,
        wish: Wish,
        ticket: int,
        process: str,
        ms: int,
        now: int,
        is_alive: Callable[[str], bool],
    ) -> SharedRun | None:
        """Return what the arriving job of `process` shares; None if it runs, and then others share that for `ms`."""
        run = self._runs.get(wish.key)
        others: list[str] = []
        if run is not None:
            is_valid = run.until > now
            if is_valid and run.answer:
                return SharedRun(wish.number, ticket, "", run.answer)
            if is_valid and not run.owner:
                return None
            if is_valid and run.owner != process and is_alive(run.owner):
                if process not in run.others:
                    run.others.append(process)
                return SharedRun(wish.number, ticket, run.owner)
            others = run.others
        self._runs[wish.key] = _Run(now + ms, process, others=others)
        return None

    def end(self, process: str, over: RunOver, now: int) -> list[str]:
        """Take in that a run of `process` is over; return the processes with jobs that wait for it."""
        run = self._runs.get(over.key, _Run(0))
        if not over.answer and run.owner != process:
            return []
        if over.ms:
            self._runs[over.key] = _Run(now + over.ms, answer=over.answer)
        else:
            self._runs.pop(over.key, None)
        self._kept.pop(over.key, None)
        if over.answer:
            self._kept[over.key] = now + over.ms, f"{over.key} {len(over.answer)}"
        return [other for other in run.others if other != process]

    def drop_answers(self, now: int) -> None:
        """Forget answers that nobody gets any more, and drop the first of them while there are too many."""
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0] > now}
        self._runs = {key: run for key, run in self._runs.items() if run.until > now or run.owner}
        by_end = sorted(self._kept, key=self._kept.__getitem__, reverse=True)
        held = sum(len(self._runs[key].answer) for key in by_end)
        while held > self._most_bytes:
            key = by_end.pop()
            held -= len(self._runs.pop(key).answer)
            del self._kept[key]


def sharing_wishes(wishes: Iterable[Wish]) -> dict[int, Wish]:
    """Return the wishes of jobs that share runs, by number."""
    return {wish.number: wish for wish in wishes if wish.reuse_ms}
