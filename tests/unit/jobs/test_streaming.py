"""A large answer that is streamed, and whose lease ends with it."""

from types import SimpleNamespace
from typing import Any

import pytest

from router.http.response import Phase, UpstreamFailed
from router.jobs.streaming import LeasedParts
from router.policy.verdict import Blame
from router.scheduling.pending import Lease
from tests.support.jobs import made_job


class Rest:
    """The rest of an answer, which ends with the given failure."""

    def __init__(self, phase: Phase | None) -> None:
        self._phase = phase
        self.is_closed = False

    async def __anext__(self) -> bytes:
        if self._phase is None:
            raise StopAsyncIteration
        raise UpstreamFailed("http://a", self._phase, "it broke")

    def close(self) -> None:
        """Record the call."""
        self.is_closed = True


@pytest.mark.parametrize("is_suspect", [True, False])
@pytest.mark.parametrize(
    ("phase", "blame", "is_over", "cause", "ms"),
    [
        (None, Blame.OK, True, "", 0),
        (Phase.DIED, Blame.DIED, True, "it broke", 2500),
        (Phase.GARBLED, Blame.FAULT, True, "it broke", 0),
        (Phase.TIMED_OUT, Blame.FAULT, False, "it broke", 0),
    ],
)
async def test_end_of_a_large_answer_is_reported_once(
    monkeypatch: pytest.MonkeyPatch,
    phase: Phase | None,
    blame: Blame,
    is_over: bool,
    cause: str,
    ms: int,
    is_suspect: bool,
) -> None:
    """The report has the job's duration if the worker died, and the job's name if it may be to blame."""
    monkeypatch.setattr("router.jobs.streaming.time", SimpleNamespace(monotonic=lambda: 1002.5))
    ended: list[tuple[object, ...]] = []
    cut: list[UpstreamFailed] = []
    leases: Any = SimpleNamespace(end=lambda lease, blame, **said: ended.append((lease, blame, said)))
    rest: Any = Rest(phase)
    lease, made = Lease(1, "http://a", 1, 0), made_job()
    parts = LeasedParts(rest, leases, lease, Blame.OK, made, cut.append, 1000, is_suspect)
    with pytest.raises(StopAsyncIteration if phase is None else UpstreamFailed):
        await anext(parts)
    parts.close()
    named = made.name if is_suspect or blame is Blame.DIED else ""
    assert ended == [(lease, blame, {"is_over": is_over, "job": named, "cause": cause, "ms": ms})]
    assert (len(cut), rest.is_closed) == (phase is not None, True)
