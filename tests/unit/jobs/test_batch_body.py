"""A batch's body without a socket: its jobs, the count of their bytes, and the time limit of the next part."""

import asyncio

import pytest

from router.aio import Turns
from router.config.load import parse
from router.config.settings import Settings
from router.http.asgi import Message
from router.jobs.batch.body import STOPPED, BatchBody, BatchRefused, CutShort
from router.jobs.batch.window import Window
from router.jobs.body_budget import BodyBudget, BodyBudgetFull
from router.policy.large_json import items
from router.policy.request_head import Refusal
from router.scheduling.pending import ClientLeft
from tests.support.messages import END, GONE, Sender, at_once, part
from tests.support.timeless import timeless

KB = 1024
SETTINGS = parse(f"{{max_body_mb: {1 / KB}, client_body_timeout: 10, error_status: {{queue_full: 429}}}}", "t")
LARGE = parse("max_body_mb: 1", "t")


class Batch:
    """A batch of at most 1 kB, whose messages arrive at their seconds; after the last one the client is silent."""

    def __init__(self, *sent: tuple[float, Message], settings: Settings = SETTINGS, others_hold: int = 0) -> None:
        most_bytes = int(settings.max_body_mb * 2**20)
        self.buffers = BodyBudget(2 * most_bytes)
        self.buffers.take(others_hold)
        self.in_flight = Window(8, most_bytes, self.buffers)
        self.is_stopping = False
        self.body = BatchBody(self._receive, self.in_flight, self.buffers, settings, Turns(), lambda: self.is_stopping)
        self.found: list[str] = []
        self.held_bytes: list[int] = []  # each time the batch asks for more
        self._client = Sender(*sent)

    async def _receive(self) -> Message:
        self.held_bytes.append(self.buffers.held_bytes)
        return await self._client()

    async def read(self) -> list[str]:
        """Read the whole batch and return its entries."""
        async for entry in self.body.entries():
            self.body.is_answered = True
            if isinstance(entry, Refusal):
                self.found.append(f"{entry.status} {entry.detail}")
            else:
                self.found.append(bytes(entry[0]).decode())
        return self.found


def found_in(*parts: bytes) -> list[str]:
    """Return the entries of a batch that arrives in these parts."""

    async def main() -> list[str]:
        return await Batch(*at_once(*parts)).read()

    return timeless(main())


def job(size: int) -> bytes:
    """Return a job of this many bytes."""
    return b'{"code":"%s"}' % (b"x" * (size - 11))


BAD = "expected a JSON object"
BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([b'{"a":1}\n{"b":2}'], ['{"a":1}', '{"b":2}']),
        ([b'{"a"', b":1", b"}\n{", b'"b":2}\n'], ['{"a":1}', '{"b":2}']),
        ([BOM[:1], BOM[1:2], BOM[2:] + b'{"a":1}'], ['{"a":1}']),
        ([BOM, b"[{}]"], ["{}"]),
        ([BOM, b"\n", b" 5"], [f"422 Line 2: {BAD}"]),
        ([b"\n\n", b"\n", b"\n5\n\n7"], [f"422 Line 5: {BAD}", f"422 Line 7: {BAD}"]),
        ([b" \n", b" [{}, 5", b" ,{}, 7]\n"], ["{}", f"422 Item 1: {BAD}", "{}", f"422 Item 3: {BAD}"]),
        ([b"", b"", b"{}"], ["{}"]),
        ([BOM + b'{"a":1}\n' + BOM + b' {"b":2}'], ['{"a":1}', '{"b":2}']),
        ([BOM + b"\n[{}, {}]"], ["{}", "{}"]),
        ([b" \n", b"\r\n "], []),
        ([BOM], []),
        ([b"[]"], []),
        ([], []),
        ([BOM[:1]], [f"422 Line 1: {BAD}: JSON is malformed: invalid character (byte 0)"]),
    ],
)
def test_jobs_are_found_however_a_body_is_cut(parts: list[bytes], found: list[str]) -> None:
    """Entries are numbered as the client numbers them, and an entry that is not a job has its own error."""
    assert found_in(*parts) == found


def test_line_may_be_as_large_as_one_body() -> None:
    """The limit is exact to the byte, and the line after a larger one is read."""
    lines = [job(KB), job(KB + 1), b"{}", job(KB + 1)]
    large = "413 Line {} is larger than 0.000976562 MB"
    expected = [lines[0].decode(), large.format(2), "{}", large.format(4)]
    body = b"\n".join(lines)
    assert found_in(body) == expected
    assert found_in(*(body[start : start + 600] for start in range(0, len(body), 600))) == expected


def test_bytes_of_a_line_are_counted_until_it_is_whole() -> None:
    """A complete line's bytes are counted by its job; a line that is too large is not kept, so it is not counted."""

    async def main() -> None:
        batch = Batch(*at_once(b'{"a"', b":1", b"}\n{", b"}\n", b"x" * 600, b"x" * 600, b"x" * 600, b"\n{", b"}"))
        assert [batch.buffers.held_bytes async for _ in batch.body.entries()] == [0, 0, 0, 0]
        assert batch.held_bytes == [0, 4, 6, 1, 0, 600, 0, 0, 1, 2]
        assert batch.buffers.held_bytes == 0

    timeless(main())


@pytest.mark.parametrize("end", [b"\n{}", b""])
def test_line_without_room_for_its_bytes_is_refused(end: bytes) -> None:
    """The line gets the status of a full router, and the next line is tried."""

    async def main() -> None:
        line = b"x" * 300
        batch = Batch(*at_once(b"{}\n" + line, line, line + end), others_hold=2 * KB - 500)
        full = "429 Line 2: 0.00195312 MB of request bodies are held already"
        assert await batch.read() == ["{}", full, *(["{}"] if end else [])]
        assert batch.held_bytes == [2 * KB - held for held in (500, 200, 500, 500 - len(end[1:]))]
        assert batch.buffers.held_bytes == 2 * KB - 500

    timeless(main())


def test_list_is_held_until_its_last_job_starts() -> None:
    """A list is complete before its first job starts, and `is_list` tells that its jobs are counted already."""

    async def main() -> None:
        batch = Batch(*at_once(b"[{}", b", {}", b"]"))
        assert [batch.buffers.held_bytes async for _ in batch.body.entries()] == [8, 8]
        assert (batch.held_bytes, batch.buffers.held_bytes, batch.body.is_list) == ([0, 3, 7, 8], 0, True)
        lines = Batch(*at_once(b"{}"))
        await lines.read()
        assert not lines.body.is_list

    timeless(main())


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ([b"[%s]" % job(KB - 1)], "The list is larger than 0.000976562 MB; one job a line"),
        ([b"[", job(KB - 2), b"] "], "The list is larger than"),
        ([b"[{}, {"], "expected a JSON list: "),
        ([b"[{}] x"], "expected a JSON list: "),
        ([b'[{}, {"a":}]'], "expected a JSON list: JSON is malformed: invalid character"),
    ],
)
def test_list_that_cannot_be_run_is_refused_before_its_first_job(parts: list[bytes], told: str) -> None:
    """No bytes of a refused list are held."""

    async def main() -> None:
        batch = Batch(*at_once(*parts))
        with pytest.raises(BatchRefused, match=told) as refused:
            await batch.read()
        assert refused.value.refusal.status == (413 if "larger" in told else 422)
        assert (batch.found, batch.buffers.held_bytes) == ([], 0)

    timeless(main())


def test_list_may_be_as_large_as_one_body_if_there_is_room() -> None:
    """The limit is exact to the byte, and a list without room is refused as a whole."""
    assert len(found_in(b"[", job(KB - 2), b"]")) == 1

    async def main() -> None:
        batch = Batch(*at_once(b"[", job(KB - 2), b"]"), others_hold=KB + 1)
        with pytest.raises(BodyBudgetFull):
            await batch.read()
        assert batch.buffers.held_bytes == KB + 1

    timeless(main())


async def turns_during(batch: Batch) -> int:
    """Return how many turns other tasks had while this was read."""
    count = 0

    async def others() -> None:
        nonlocal count
        while True:
            await asyncio.sleep(0)
            count += 1

    task = asyncio.create_task(others())
    await batch.read()
    task.cancel()
    return count


def test_other_tasks_run_while_a_large_body_is_read() -> None:
    """They run after each piece of a list, in its check and in its reading, and after empty lines."""
    large = b"[%s]" % b",".join([b"{}"] * 20_000)
    pieces = sum(place is None for place in items(large))
    assert pieces > 5

    async def main() -> None:
        assert await turns_during(Batch(*at_once(large), settings=LARGE)) >= 2 * pieces - 1
        assert await turns_during(Batch(*at_once(b"{}" + b"\n" * 500))) >= 498
        assert asyncio.get_running_loop().time() == 0

    timeless(main())


def test_lost_client_or_stopping_router_ends_the_batch() -> None:
    """The rest of the body is not read."""

    async def main() -> None:
        left = Batch((0, part(b"{}\n{}\n{")), (0, GONE))
        with pytest.raises(ClientLeft):
            await left.read()
        stopped = Batch(*at_once(b"{}\n"))
        stopped.is_stopping = True
        with pytest.raises(CutShort, match=STOPPED):
            await stopped.read()
        assert (left.found, stopped.found) == (["{}", "{}"], [])

    timeless(main())


def test_first_line_has_no_time_limit_here() -> None:
    """Before there is an answer, the connection limits the client's time."""

    async def main() -> None:
        batch = Batch((100, part(b"{")), (200, part(b"}\n")), (209.9, END))
        assert await batch.read() == ["{}"]

    timeless(main())


NOTHING, LITTLE = "nothing came for 10 s", "less than 100 kB a second came for 10 s"


@pytest.mark.parametrize(
    ("rest", "job_s", "cut_s", "told"),
    [
        ([], None, 10, NOTHING),
        ([], 5, 15, NOTHING),
        ([], 25, 35, NOTHING),
        ([(8, b"{}\n")], None, 18, NOTHING),
        ([(second / 2, b" ") for second in range(1, 40)], None, 10, LITTLE),
        ([(8, b"x" * 100_000)], None, 11, LITTLE),
        ([(8, b"x" * 100_000)], 4, 15, LITTLE),
        ([(2, b"x" * 400_000)], None, 12, NOTHING),
        ([(8, b"x")], 9, 19, NOTHING),
        ([(8, b"x")], 5, 15, LITTLE),
    ],
)
def test_time_for_more_of_a_batch_runs_only_without_running_jobs(
    rest: list[tuple[float, bytes]], job_s: float | None, cut_s: float, told: str
) -> None:
    """100 kB earn a second, and a complete line earns the whole time back."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        batch = Batch((0, part(b"{}\n{")), *((at_s, part(body)) for at_s, body in rest))
        if job_s is not None:
            batch.in_flight.begin()
            loop.call_at(job_s, batch.in_flight.end)
        with pytest.raises(CutShort, match=f"^{told}$"):
            await batch.read()
        assert loop.time() == pytest.approx(cut_s, abs=0.001)

    timeless(main())
