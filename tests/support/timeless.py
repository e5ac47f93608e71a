"""An event loop whose clock jumps to the next timer, so that an hour by `loop.time()` takes no time.

It is for code that waits with asyncio only, and whose other parts run in this process: sockets are never waited for.
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
# A loop that has slept this often without an end is endless.
_MOST_JUMPS = 100_000


class _Jumping(selectors.DefaultSelector):
    """Never waits; it moves the loop's clock ahead by the time that it would have waited."""

    def __init__(self, now: float) -> None:
        super().__init__()
        self.now = now
        self._jumps = 0

    def select(self, timeout: float | None = None) -> _Found:
        """Return the events that are ready now."""
        found: _Found = super().select(0)
        if not found and (timeout is None or timeout > 0):
            assert timeout is not None, "all tasks wait, and no timer is set"
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
    """Run `main` to its end without waiting; the clock starts at `now`. Fails if any callback raised an exception."""
    raised: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=partial(_Loop, now)) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: raised.append(context))
        value = runner.run(main)
    assert raised == []
    return value


def keep_loop_time(patch: pytest.MonkeyPatch, *modules: str) -> None:
    """Replace `time.monotonic` in these modules of the router by the loop's clock."""
    now = SimpleNamespace(monotonic=lambda: asyncio.get_running_loop().time())
    for module in modules:
        patch.setattr(f"router.{module}.time", now)
