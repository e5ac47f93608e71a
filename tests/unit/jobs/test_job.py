"""One client's job: its name, its verdicts, and whether its client is still connected."""

import asyncio
import hashlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from router.aio import Turns
from router.jobs.job import _PIECE_BYTES
from router.policy.deadline import SMALL_BYTES, LimitReader
from router.policy.large_json import finished
from router.policy.verdict import Kind
from tests.support.jobs import made_job, stays

READER = LimitReader({"run_timeout": 10.0}, sign=b"_timeout")


async def _left() -> None:
    pass


@pytest.mark.parametrize("size", [1, _PIECE_BYTES - 1, _PIECE_BYTES, _PIECE_BYTES + 1, 3 * _PIECE_BYTES])
def test_large_job_has_the_same_name_in_pieces(size: int) -> None:
    """Its body is hashed piece by piece with a pause after each, and its limits are found before."""
    body = b'{"run_timeout": 7, "code": "%s"}' % (b"x" * size)
    made, pauses = made_job(body), 0
    scanning = made.scan_body(READER, is_hashed=True)
    while True:
        try:
            next(scanning)
            pauses += 1
        except StopIteration as end:
            scan = end.value
            break
    assert scan.digest == hashlib.blake2b(body, digest_size=16, key=b"/run_code").digest()
    assert msgspec.structs.replace(made, scan=scan).name == scan.digest.hex()[:16]
    assert READER.longest_s(scan.excerpt) == 7
    assert pauses >= len(body) / _PIECE_BYTES


@pytest.mark.parametrize("is_asked", [False, True])
def test_large_job_is_hashed_when_its_name_is_asked_for(*, is_asked: bool) -> None:
    """A job that ends well needs no name, and a hash costs more than all else that is done with its body."""
    made = made_job(b'{"code": "%s"}' % (b"x" * 2**20))
    job = msgspec.structs.replace(made, scan=finished(made.scan_body(READER)))
    assert job.lacks_hash
    if is_asked:
        finished(job.hash_body())
        assert not job.lacks_hash
    assert job.name == hashlib.blake2b(job.body, digest_size=16, key=b"/run_code").hexdigest()[:16]
    assert not job.lacks_hash


def test_name_depends_on_body_and_target() -> None:
    """Only the beginning of a long target counts."""
    names = [
        made_job(b"{}").name,
        made_job(b"{ }").name,
        made_job(b"{}", b"/submit").name,
        made_job(b"{}", b"/" + b"x" * 100).name,
    ]
    assert len(set(names)) == 4
    assert all(len(name) == 16 for name in names)
    assert made_job(b"{}").name == names[0]


def test_key_is_the_same_for_identical_jobs_alone() -> None:
    """It depends on all that the result does: tenant, target, labels, how the body is to be read, and the body."""
    job, replace = made_job(b"{}"), msgspec.structs.replace
    typed = replace(job, lines=b"accept: */*\r\ncontent-type: application/json\r\n")
    others = [
        *(
            made_job(b"{ }"),
            made_job(b"{}", b"/run_code?a"),
            replace(job, tenant="run-7"),
            replace(job, labels=("gpu",)),
        ),
        *(typed, replace(job, lines=b"content-type: text/json\r\n"), made_job(b"{}", b"/" + b"x" * 100)),
        made_job(b"{}", b"/" + b"x" * 101),
    ]
    assert len({job.key, *(other.key for other in others)}) == 1 + len(others)
    assert replace(job, tenant="default").key == replace(job, request_id=b"another", client_s=3.0).key == job.key
    assert replace(typed, lines=b"x: y\r\ncontent-type: application/json\r\n").key == typed.key
    labels = ("ib", "gpu"), ("gpu", "ib")
    assert len({replace(job, labels=its).key for its in labels}) == 1


async def test_key_of_a_large_job_is_that_of_its_whole_body() -> None:
    """It is read piece by piece, and its target counts to the end."""

    async def key(body: bytes, target: bytes = b"/run_code") -> str:
        job = made_job(body, target)
        return msgspec.structs.replace(job, scan=await Turns().run(job.scan_body(READER))).key

    body = b'{"code": "%s"}' % (b"x" * 2**20)
    long = b"/run_code?" + b"y" * 100
    keys = [await key(body), await key(body[:-3] + b'y"}'), await key(body, long), await key(body, long + b"z")]
    assert len(set(keys)) == 4
    assert await key(body) == keys[0]


@pytest.mark.parametrize(("rest", "kind"), [(None, Kind.FAULT), (object(), Kind.RESULT)])
def test_truncated_answer_is_a_fault_and_a_continued_one_is_not(rest: object, kind: Kind) -> None:
    """Of an answer that continues, only the beginning is judged."""
    head = SimpleNamespace(status=200, headers=(), is_packed=False)
    outcome: Any = SimpleNamespace(head=head, body=b'{"status": "Success", "message": "cut he', rest=rest)
    assert made_job().verdict_on(outcome).kind is kind


@pytest.mark.parametrize(("size", "is_large"), [(0, False), (SMALL_BYTES - 1, False), (SMALL_BYTES + 1, True)])
def test_large_job_is_read_in_pieces(size: int, is_large: bool) -> None:
    """In one step it would delay all other jobs."""
    assert made_job(b"x" * size).is_large is is_large


@pytest.mark.parametrize(("has_left", "is_abandoned"), [(stays, False), (_left, True)])
async def test_check_for_a_client_that_left_returns_at_once(has_left: Callable[[], Any], is_abandoned: bool) -> None:
    """The check does not wait and leaves no task behind."""
    before = asyncio.all_tasks()
    assert await made_job(has_left=has_left).is_abandoned() is is_abandoned
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
