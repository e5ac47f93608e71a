"""An event loop whose clock jumps to the next timer: what takes an hour by `loop.time()` is over at once.

For code that waits by asyncio alone, among parts that answer in this process; a socket would never get its turn.
"""

import asyncio
import selectors
from collections.abc import Coroutine
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar

import pytest

_Value = TypeVar("_Value")
_Found = list[tuple[selectors.SelectorKey, int]]
# A loop that sleeps this often without an end goes round in a circle.
_MOST_JUMPS = 100_000


class _Jumping(selectors.DefaultSelector):
    """Never waits: it tells the loop's clock how long it would have waited."""

    def __init__(self, now: float) -> None:
        super().__init__()
        self.now = now
        self._jumps = 0

    def select(self, timeout: float | None = None) -> _Found:
        """Look what is ready, at once."""
        found: _Found = super().select(0)
        if not found and (timeout is None or timeout > 0):
            assert timeout is not None, "all wait for what never comes"
            self._jumps += 1
            assert self._jumps < _MOST_JUMPS
            self.now += timeout
        return found


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, now: float) -> None:
        self._clock = _Jumping(now)
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


def timeless(main: Coroutine[Any, Any, _Value], now: float = 0.0) -> _Value:
    """Run `main` to its end, without waiting; the loop's clock begins at `now`. No callback may raise anything."""
    raised: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=partial(_Loop, now)) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: raised.append(context))
        value = runner.run(main)
    assert raised == []
    return value


def keep_loop_time(patch: pytest.MonkeyPatch, *modules: str) -> None:
    """Let the clock of these modules of the router, time.monotonic, be the loop's."""
    now = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())
    for module in modules:
        patch.setattr(f"router.{module}.time", now)
