"""One client's job: its name, its verdicts, and whether its client is still there."""

import asyncio
import hashlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from router.jobs.job import _PIECE_BYTES
from router.policy.deadline import SMALL_BYTES, LimitReader
from router.policy.verdict import Kind
from tests.support.jobs import made_job, stays

READER = LimitReader({"run_timeout": 10.0}, sign=b"_timeout")


async def _left() -> None:
    pass


@pytest.mark.parametrize("size", [1, _PIECE_BYTES - 1, _PIECE_BYTES, _PIECE_BYTES + 1, 3 * _PIECE_BYTES])
def test_large_job_is_known_by_the_name_that_it_would_have_at_once(size: int) -> None:
    """Its body is read piece by piece, with a pause after each piece; the limits are found on the way."""
    body = b'{"run_timeout": 7, "code": "%s"}' % (b"x" * size)
    made, pauses = made_job(body), 0
    scanning = made.scan_body(READER)
    while True:
        try:
            next(scanning)
            pauses += 1
        except StopIteration as end:
            scan = end.value
            break
    assert scan.name == made.name == hashlib.blake2b(body, digest_size=8, key=b"/run_code").hexdigest()
    assert READER.longest_s(scan.excerpt) == 7
    assert pauses >= len(body) / _PIECE_BYTES


def test_name_tells_jobs_apart_by_body_and_target() -> None:
    """Of a long target the beginning counts."""
    names = [
        made_job(b"{}").name,
        made_job(b"{ }").name,
        made_job(b"{}", b"/submit").name,
        made_job(b"{}", b"/" + b"x" * 100).name,
    ]
    assert len(set(names)) == 4
    assert all(len(name) == 16 for name in names)
    assert made_job(b"{}").name == names[0]


@pytest.mark.parametrize(("rest", "kind"), [(None, Kind.FAULT), (object(), Kind.RESULT)])
def test_answer_that_ends_too_soon_is_a_fault_and_one_that_goes_on_is_none(rest: object, kind: Kind) -> None:
    """Of an answer that goes on, only the beginning is judged."""
    head = SimpleNamespace(status=200, headers=(), is_packed=False)
    outcome: Any = SimpleNamespace(head=head, body=b'{"status": "Success", "message": "cut he', rest=rest)
    assert made_job().verdict_on(outcome).kind is kind


@pytest.mark.parametrize(("size", "is_large"), [(0, False), (SMALL_BYTES - 1, False), (SMALL_BYTES + 1, True)])
def test_large_job_is_one_to_be_read_in_pieces(size: int, is_large: bool) -> None:
    """Read in one step, it would hold up all other jobs."""
    assert made_job(b"x" * size).is_large is is_large


@pytest.mark.parametrize(("has_left", "is_abandoned"), [(stays, False), (_left, True)])
async def test_client_has_left_or_not(has_left: Callable[[], Any], is_abandoned: bool) -> None:
    """Asking does not wait, and leaves no task behind."""
    before = asyncio.all_tasks()
    assert await made_job(has_left=has_left).is_abandoned() is is_abandoned
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
