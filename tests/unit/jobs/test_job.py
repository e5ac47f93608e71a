"""One client's job: its name, whether its client is there, and how the lease of a large answer ends."""

import asyncio
import hashlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from router.http.response import Phase, UpstreamFailed
from router.jobs.body_budget import BodyBudget
from router.jobs.job import _PIECE_BYTES, Job
from router.jobs.streaming import LeasedParts
from router.policy.deadline import SMALL_BYTES, LimitReader
from router.policy.verdict import Blame, Kind
from router.scheduling.pending import Lease

READER = LimitReader({"run_timeout": 10.0}, sign=b"_timeout")


async def _stays() -> None:
    await asyncio.Event().wait()


async def _left() -> None:
    pass


def job(body: bytes = b"{}", target: bytes = b"/run_code", has_left: Any = _stays) -> Job:
    """Return a job of this body."""
    return Job(b"POST", "/run_code", target, b"", body, b"id", has_left, BodyBudget(1).share())


@pytest.mark.parametrize("size", [1, _PIECE_BYTES - 1, _PIECE_BYTES, _PIECE_BYTES + 1, 3 * _PIECE_BYTES])
def test_large_job_is_known_by_the_name_that_it_would_have_at_once(size: int) -> None:
    """It is looked at a piece at a time, with a pause after each; its limits are found on the way."""
    body = b'{"run_timeout": 7, "code": "%s"}' % (b"x" * size)
    made, pauses = job(body), 0
    looking = made.look(READER)
    while True:
        try:
            next(looking)
            pauses += 1
        except StopIteration as end:
            seen = end.value
            break
    assert seen.name == made.name == hashlib.blake2b(body, digest_size=8, key=b"/run_code").hexdigest()
    assert READER.longest_s(seen.excerpt) == 7
    assert pauses >= len(body) / _PIECE_BYTES


def test_name_tells_jobs_apart_by_body_and_target() -> None:
    """Of a long target its beginning counts; what cannot be read has a name, too."""
    names = [job(b"{}").name, job(b"{ }").name, job(b"{}", b"/submit").name, job(b"{}", b"/" + b"x" * 100).name]
    assert len(set(names)) == 4
    assert all(len(name) == 16 for name in names)
    assert job(b"{}").name == names[0]


@pytest.mark.parametrize(("rest", "kind"), [(None, Kind.FAULT), (object(), Kind.RESULT)])
def test_answer_that_ends_too_soon_is_a_fault_and_one_that_goes_on_is_none(rest: object, kind: Kind) -> None:
    """Of the latter only the beginning is there."""
    head = SimpleNamespace(status=200, headers=(), is_packed=False)
    outcome: Any = SimpleNamespace(head=head, body=b'{"status": "Success", "message": "cut he', rest=rest)
    assert job().verdict_on(outcome).kind is kind


@pytest.mark.parametrize(("size", "is_large"), [(0, False), (SMALL_BYTES - 1, False), (SMALL_BYTES + 1, True)])
def test_large_job_is_looked_at_a_piece_at_a_time(size: int, is_large: bool) -> None:
    """At once it would hold up all others."""
    assert job(b"x" * size).is_large is is_large


@pytest.mark.parametrize(("has_left", "is_abandoned"), [(_stays, False), (_left, True)])
async def test_client_has_left_or_not(has_left: Callable[[], Any], is_abandoned: bool) -> None:
    """It is not waited for, and nothing is left that waits for it."""
    before = asyncio.all_tasks()
    assert await job(has_left=has_left).is_abandoned() is is_abandoned
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before


class Rest:
    """The rest of an answer that breaks so."""

    def __init__(self, phase: Phase | None) -> None:
        self._phase = phase
        self.is_closed = False

    async def __anext__(self) -> bytes:
        if self._phase is None:
            raise StopAsyncIteration
        raise UpstreamFailed("http://a", self._phase, "it broke")

    def close(self) -> None:
        """Take note."""
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
async def test_end_of_a_large_answer_says_what_became_of_the_worker(
    monkeypatch: pytest.MonkeyPatch,
    phase: Phase | None,
    blame: Blame,
    is_over: bool,
    cause: str,
    ms: int,
    is_suspect: bool,
) -> None:
    """Once; of a worker that died, with how long the job had run; the job is named where it may be to blame."""
    monkeypatch.setattr("router.jobs.streaming.time", SimpleNamespace(monotonic=lambda: 1002.5))
    ended: list[tuple[object, ...]] = []
    cut: list[UpstreamFailed] = []
    leases: Any = SimpleNamespace(end=lambda lease, blame, **said: ended.append((lease, blame, said)))
    rest: Any = Rest(phase)
    lease, made = Lease(1, "http://a", 1, 0), job()
    parts = LeasedParts(rest, leases, lease, Blame.OK, made, cut.append, 1000, is_suspect)
    with pytest.raises(StopAsyncIteration if phase is None else UpstreamFailed):
        await anext(parts)
    parts.close()
    named = made.name if is_suspect or blame is Blame.DIED else ""
    assert ended == [(lease, blame, {"is_over": is_over, "job": named, "cause": cause, "ms": ms})]
    assert (len(cut), rest.is_closed) == (phase is not None, True)
