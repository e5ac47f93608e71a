"""Batches whose longest jobs begin first, and what a line says of its own job; without sockets or workers."""

import json
from typing import Any

import pytest

from router.http.asgi import CLIENT_LEFT, STOPPING, Message
from router.jobs.batch.hints import PIECE_BYTES, Hints, take_out
from router.jobs.options import NO_OPTIONS, JobOptions
from router.policy.large_json import finished
from tests.support.batch_router import KB, Router
from tests.support.messages import END, GONE, at_once, part
from tests.support.timeless import timeless

ORDERED: dict[str, Any] = {"query_string": b"order=longest_first"}
OF_TENANT = [(b"x-router-tenant", b"ordered")]


def job(number: int, size: int | None = None, takes_s: float = 1, padding: int = 0) -> bytes:
    """Return a job of this number, which says its size."""
    hints = {} if size is None else {"router": {"expected_ms": size}}
    return (
        json.dumps({"n": number, "s": takes_s, **({"x": "x" * padding} if padding else {}), **hints}).encode() + b"\n"
    )


def begun(router: Router) -> list[int]:
    """Return the numbers of the jobs in the order in which they began."""
    return [json.loads(bytes(each.body))["n"] for each in router.jobs]


@pytest.mark.parametrize(
    ("scope", "order"),
    [
        (ORDERED, [1, 3, 2, 0, 4]),
        ({"headers": OF_TENANT}, [1, 3, 2, 0, 4]),
        ({"headers": OF_TENANT, "query_string": b"order=arrival"}, [0, 1, 2, 3, 4]),
        ({}, [0, 1, 2, 3, 4]),
    ],
)
@pytest.mark.parametrize("is_list", [False, True])
def test_longest_job_in_sight_begins_first(scope: dict[str, Any], order: list[int], *, is_list: bool) -> None:
    """The query asks for it, or the tenant's rule, over which the query wins; equal ones begin as they came."""
    jobs = [job(number, size) for number, size in enumerate([5, 9000, 70, 700, 5])]

    async def main() -> Router:
        router = Router(max_in_flight=1)
        body = b"[" + b",".join(jobs) + b"]" if is_list else b"".join(jobs)
        await router.ask(*at_once(body), **scope)
        assert router.is_whole
        assert router.buffers.held_bytes == 0
        return router

    router = timeless(main())
    assert begun(router) == order
    assert sorted(line["index"] for line in router.lines) == [0, 1, 2, 3, 4]
    assert {line["index"]: line["body"]["n"] for line in router.lines} == {index: index for index in range(5)}


@pytest.mark.parametrize(
    ("query", "order"),
    [
        (b"stop_on=failure", [0, 2, 4, 6, 1, 3, 5]),
        (b"stop_on=failure&order=longest_first", [4, 2, 0, 6, 5, 3, 1]),
        (b"order=arrival", [0, 1, 2, 3, 4, 5, 6]),
    ],
)
def test_first_job_of_each_group_begins_before_any_second_one(query: bytes, order: list[int]) -> None:
    """So the others of a group that fails have not begun. Sizes count among jobs of the same turn."""
    groups = ["a", "a", "b", "b", "c", "c", "d"]
    hints = [{"group": group, "expected_ms": size} for group, size in zip(groups, [1, 2, 3, 4, 5, 6, 1], strict=True)]
    lines = [json.dumps({"n": number, "s": 1, "router": hint}).encode() for number, hint in enumerate(hints)]

    async def main() -> Router:
        router = Router(max_in_flight=1)
        await router.ask(*at_once(b"\n".join(lines)), query_string=query)
        return router

    assert begun(timeless(main())) == order


def test_jobs_that_come_later_are_put_in_their_place() -> None:
    """A job that is read while others run begins before shorter ones that came earlier."""

    async def main() -> Router:
        router = Router(max_in_flight=1)
        first = (0.0, part(job(0, 5) + job(1, 3) + job(2, 4)))
        await router.ask(first, (0.5, part(job(3, 9))), (0.5, END), **ORDERED)
        return router

    assert begun(timeless(main())) == [0, 3, 2, 1]


@pytest.mark.parametrize(
    ("look_ahead_bytes", "others_hold", "order"),
    [
        (KB, 0, [4, 5, 3, 2, 1, 0]),
        (0, 0, [0, 1, 2, 3, 4, 5]),
        (30, 0, [2, 3, 4, 5, 1, 0]),
        (KB, KB, [0, 1, 2, 3, 4, 5]),
    ],
)
def test_router_reads_ahead_as_far_as_it_may(look_ahead_bytes: int, others_hold: int, order: list[int]) -> None:
    """The bytes in sight are bounded; while others hold half of what the process may hold, one job is in sight."""

    async def main() -> Router:
        router = Router(max_in_flight=1, look_ahead_bytes=look_ahead_bytes, others_hold=others_hold)
        sizes = [10, 20, 30, 40, 60, 50]
        await router.ask(*at_once(b"".join(job(number, size) for number, size in enumerate(sizes))), **ORDERED)
        assert router.refusals == []
        assert router.buffers.held_bytes == others_hold
        return router

    assert begun(timeless(main())) == order


def test_no_job_of_an_ordered_batch_fails_for_want_of_room_to_read_ahead() -> None:
    """Bodies that together are larger than all that the process may hold have their results."""

    async def main() -> Router:
        router = Router(max_in_flight=2, look_ahead_bytes=100 * KB)
        await router.ask(*at_once(b"".join(job(number, padding=600) for number in range(20))), **ORDERED)
        assert router.buffers.held_bytes == 0
        return router

    assert [line["status"] for line in timeless(main()).lines] == [200] * 20


def test_bad_line_of_an_ordered_batch_is_answered_in_its_place() -> None:
    """Its index is that of the line, and the others run."""

    async def main() -> Router:
        router = Router(max_in_flight=1)
        await router.ask(*at_once(job(0, 1) + b"{\n" + job(2, 2)), **ORDERED)
        return router

    router = timeless(main())
    assert begun(router) == [2, 0]
    assert {line["index"]: line["status"] for line in router.lines} == {0: 200, 1: 422, 2: 200}


@pytest.mark.parametrize("end", ["gone", CLIENT_LEFT, STOPPING])
@pytest.mark.parametrize("is_read", [False, True])
def test_ordered_batch_that_is_ended_begins_no_more_jobs(end: str, *, is_read: bool) -> None:
    """Whether its client leaves or its router stops: jobs in sight are dropped, and their bytes given back."""

    async def main() -> Router:
        router = Router(max_in_flight=1)
        sent: list[tuple[float, Message]] = [(0.0, part(b"".join(job(number) for number in range(5))))]
        if is_read:
            sent.append((0.1, END))
        if end == "gone":
            sent.append((1.5, GONE))
        else:
            router.tell_at(1.5, end)
            if not is_read:
                sent.append((1.6, part(b" ")))
        await router.ask(*sent, **ORDERED)
        assert not router.is_whole
        assert router.buffers.held_bytes == 0
        return router

    assert len(timeless(main()).jobs) == 2


@pytest.mark.parametrize(
    ("query", "target"),
    [
        (b"order=arrival", b"/run_code"),
        (b"debug=1&order=longest_first&stop_on=failure", b"/run_code?debug=1"),
        (b"orders=1&stop=%20", b"/run_code?orders=1&stop=%20"),
    ],
)
def test_query_s_members_for_the_router_are_not_forwarded(query: bytes, target: bytes) -> None:
    """Workers get the rest as it came."""

    async def main() -> Router:
        router = Router()
        await router.ask(*at_once(b"{}"), query_string=query)
        return router

    assert [each.target for each in timeless(main()).jobs] == [target]


@pytest.mark.parametrize(
    ("query", "detail"),
    [
        (b"order=shortest_first", "order: expected arrival or longest_first, got shortest_first"),
        (b"order=", "order: expected arrival or longest_first, got "),
        (b"stop_on=success", "stop_on: expected failure, got success"),
    ],
)
def test_unknown_value_of_the_query_is_refused(query: bytes, detail: str) -> None:
    """The choices are named, and nothing runs."""

    async def main() -> Router:
        router = Router()
        await router.ask(*at_once(b"{}"), query_string=query)
        return router

    router = timeless(main())
    assert (router.status, json.loads(router.sent[1]["body"])["detail"]) == (400, detail)
    assert router.jobs == []


def test_line_says_what_it_wants_in_a_member_that_no_worker_gets() -> None:
    """The member is taken out of the job; what it does not say is as for the whole batch."""
    lines = [
        b'{"n": 1.50, "router": {"expected_ms": 1500, "size_key": "p/7", "group": "g"}, "x": [ 1 ]}',
        b'{"router": {"group": "h"}, "n": NaN}',
        b'{"files": {"router": "MQ=="}}',
        b"{}",
    ]

    async def main() -> Router:
        router = Router()
        headers = [(b"x-router-size-key", b"all")]
        await router.ask(*at_once(b"\n".join(lines)), headers=headers, query_string=b"")
        return router

    router = timeless(main())
    assert [bytes(each.body) for each in router.jobs] == [b'{"n":1.50,"x":[ 1 ]}', b'{"n": NaN}', lines[2], b"{}"]
    assert [each.options for each in router.jobs] == [
        JobOptions(1500, "p/7", group="g"),
        JobOptions(size_key="all", group="h"),
        JobOptions(size_key="all"),
        JobOptions(size_key="all"),
    ]


def test_large_line_keeps_its_hints() -> None:
    """They are read a piece at a time; the worker ignores them."""
    text = b'{"code": "%s", "router": {"expected_ms": 7}}' % (b"x" * PIECE_BYTES)
    assert finished(take_out(text)) == (text, Hints(expected_ms=7))


@pytest.mark.parametrize(
    ("hints", "cause"),
    [
        (b"7", "Expected `object`, got `int`"),
        (b'{"expected_ms": 0}', "Expected `int` >= 1 - at `$.expected_ms`"),
        (b'{"expected_ms": 1e99}', "at `$.expected_ms`"),
        (b'{"size_key": "a b"}', "at `$.size_key`"),
        (b'{"group": ""}', "Expected 1 to 128 printable ASCII characters without spaces - at `$.group`"),
        (b'{"expected": 1}', "Object contains unknown field `expected`"),
    ],
)
def test_bad_hint_is_named_and_its_job_does_not_run(hints: bytes, cause: str) -> None:
    """The others run."""

    async def main() -> Router:
        router = Router()
        await router.ask(*at_once(b'{}\n{"router": %s}\n' % hints))
        return router

    good, bad = sorted(timeless(main()).lines, key=lambda line: int(line["index"]))
    assert (good["status"], bad["status"]) == (200, 422)
    assert bad["body"]["detail"].startswith("Line 2: router: ")
    assert cause in bad["body"]["detail"]


def test_jobs_of_a_plain_batch_share_one_value_for_no_options() -> None:
    """So a batch that asks for nothing costs nothing more."""

    async def main() -> Router:
        router = Router()
        await router.ask(*at_once(b"{}\n{}\n"))
        return router

    assert all(each.options is NO_OPTIONS for each in timeless(main()).jobs)
