"""Decides which arriving jobs share a run with an identical one, and which answers are kept for further ones.

A process has one run of a key; its own jobs share that without asking. lua/reuse.lua decides alike.
"""

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
        self._kept: dict[str, tuple[int, str]] = {}  # the moment at which an answer is dropped, and its order

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
        if over.ms:
            self._runs[over.key] = _Run(now + over.ms, answer=over.answer)
        else:
            self._runs.pop(over.key, None)
        self._kept.pop(over.key, None)
        if over.answer:
            self._kept[over.key] = now + over.ms, f"{over.key} {len(over.answer)}"
        return [other for other in run.others if other != process]

    def _drop_answers(self, now: int) -> None:
        """Forget answers that nobody gets any more, and drop the first of them while there are too many."""
        self._kept = {key: kept for key, kept in self._kept.items() if kept[0] > now}
        self._runs = {key: run for key, run in self._runs.items() if run.until > now or run.owner}
        by_end = sorted(self._kept, key=self._kept.__getitem__, reverse=True)
        held = sum(len(self._runs[key].answer) for key in by_end)
        while held > self._most_bytes:
            key = by_end.pop()
            held -= len(self._runs.pop(key).answer)
            del self._kept[key]
