"""What jobs of this process leave for others, as far as the scheduler is to be told of it.

That is what jobs leave behind whose clients have gone, and what became of the runs that identical jobs share. It also
says whether jobs are to ask with keys: only while anything may be left behind in the fleet.
"""

import asyncio
from collections.abc import Callable

import msgspec

from router.scheduling.messages import Call, Orphan, Reply, RunOver

# Before a client may come back, all processes have had several heartbeats.
NOTICE_S = 2.0


class LeftBehind:
    """What the next call has to say of orphans and shared runs (`has_news`), and what the last reply has said.

    `is_on`: jobs may leave something behind. `are_keyed`: arriving jobs are to have keys. `all_runs` returns the runs
    that this process has left behind, to tell them to another scheduler; adoption sets it. `is_urgent`: a job may wait
    for the news. `call_now` has a call made.
    """

    def __init__(self, call_now: Callable[[], None]) -> None:
        self.is_on = False
        self.are_keyed = False
        self.has_news = self.is_urgent = False
        self.runs_over: tuple[RunOver, ...] = ()
        self.all_runs: Callable[[], tuple[Orphan, ...]] = tuple
        self._untold: tuple[Orphan, ...] = ()
        self._when_told: list[Callable[[], None]] = []
        self._being_told: list[Callable[[], None]] = []
        self._keyed_ms = 0
        self._call_now = call_now

    def tell(self, orphan: Orphan, then: Callable[[], None] | None = None) -> None:
        """Tell the scheduler of this one, and call `then` when it knows."""
        self._untold += (orphan,)
        if then is not None:
            self._when_told.append(then)
        self._press()

    def hear(self, reply: Reply) -> None:
        """Take note of the reply to the last call."""
        self.are_keyed = reply.keyed_ms > 0
        for then in self._being_told:
            asyncio.get_running_loop().call_soon(then)
        self._being_told = []

    def expect(self) -> None:
        """Have all processes ask with keys: within NOTICE_S a client may go, and come back."""
        self._keyed_ms = int(2000 * NOTICE_S)
        self._press()

    def end_shared(self, over: RunOver) -> None:
        """Tell that a run is over that jobs share. An answer goes with the end of its lease."""
        self.runs_over += (over,)
        self.has_news = True
        if not over.answer:
            self._press()

    def told_in(self, call: Call) -> Call:
        """Return the call with what is to be told."""
        said = {"orphans": self._untold, "keyed_ms": self._keyed_ms, "runs_over": self.runs_over}
        self._being_told, self._when_told = self._when_told, []
        self._untold, self._keyed_ms, self.runs_over, self.has_news, self.is_urgent = (), 0, (), False, False
        return msgspec.structs.replace(call, **said)

    def _press(self) -> None:
        self.has_news = self.is_urgent = True
        self._call_now()
