"""How long a client may take, and which heads are refused although the parser accepts them."""

import math

import pytest

from router.policy.client_timeouts import LINGER_S, MIN_BODY_BYTES_A_SECOND, ClientClock, ClientTimeouts, Owed
from router.policy.request_head import head_bytes, refusal

TIMEOUTS = ClientTimeouts(body_s=30, read_s=60)
KEEP_ALIVE_S = 75.0


@pytest.mark.parametrize(
    ("owed", "due"),
    [
        (Owed.HEAD, 130),
        (Owed.BODY, 130),
        (Owed.END, 100 + LINGER_S),
        (Owed.REQUEST, 100 + KEEP_ALIVE_S),
    ],
)
def test_each_expected_part_has_its_time_limit(owed: Owed, due: float) -> None:
    """Each part that a client owes is due after its own timeout."""
    clock = ClientClock(TIMEOUTS, KEEP_ALIVE_S)
    clock.begin(owed, now=100)
    assert clock.due == pytest.approx(due)


def slow(seconds: float) -> int:
    """Return the number of bytes in these seconds at the lowest allowed rate."""
    return int(seconds * MIN_BODY_BYTES_A_SECOND)


@pytest.mark.parametrize(
    ("came", "due"),
    [
        ([(20, slow(5))], 35),  # each 100 kB earn a second
        ([(20, slow(20))], 50),  # and no more than has passed
        ([(1, 128 * 2**20 - 10)], 31),  # whatever the size
        ([(1, 8 * 2**20), (20, 1), (30, 1)], 31),  # dripping earns nothing
        (
            [(at, slow(10)) for at in range(10, 1340, 10)],
            1360,
        ),  # at the lowest rate a body may take any time
        ([(at, slow(9)) for at in range(10, 210, 10)], 210),  # a little below that rate it falls behind at last
    ],
)
def test_body_is_due_body_s_seconds_after_it_fell_behind(came: list[tuple[float, int]], due: float) -> None:
    """Its time runs down from body_s and is earned back by the body's bytes, and no silence is longer than body_s."""
    clock = ClientClock(TIMEOUTS, KEEP_ALIVE_S)
    clock.begin(Owed.BODY, now=0)
    for now, size in came:
        assert now < clock.due
        clock.body_bytes += size
        clock.has_come_on(now)
    assert clock.due == pytest.approx(due)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (0, "No whole request body within 30 s and 1 s for each 100 kB"),
        (slow(1), "No whole request body within 30 s and 1 s for each 100 kB"),
        (slow(9), "The request body has come to less than 100 kB a second, and fell 30 s behind"),
    ],
)
def test_refusal_names_when_the_body_was_slow(size: int, told: str) -> None:
    """A body may be slow from the start, or after a fast start."""
    clock = ClientClock(TIMEOUTS, KEEP_ALIVE_S)
    clock.begin(Owed.BODY, now=0)
    clock.body_bytes += size
    clock.has_come_on(now=2)
    refused = clock.refusal(has_begun=False)
    assert refused
    assert (refused.status, refused.detail) == (408, told)


@pytest.mark.parametrize(("owed", "has_begun"), [(Owed.REQUEST, True), (Owed.HEAD, False), (Owed.END, True)])
def test_client_without_a_started_request_is_not_refused(owed: Owed, *, has_begun: bool) -> None:
    """Its connection is closed without an answer."""
    clock = ClientClock(TIMEOUTS, KEEP_ALIVE_S)
    clock.begin(Owed.BODY, now=0)
    clock.body_bytes += slow(10)
    clock.begin(owed, now=20)
    assert clock.refusal(has_begun=has_begun) is None


def test_nothing_is_due_while_a_job_runs() -> None:
    """While its job runs, a client owes nothing."""
    assert ClientClock(TIMEOUTS, KEEP_ALIVE_S).due == math.inf


def test_next_request_starts_without_the_previous_credit() -> None:
    """The time that a large body earned ends with that body."""
    clock = ClientClock(TIMEOUTS, KEEP_ALIVE_S)
    clock.begin(Owed.BODY, now=0)
    clock.body_bytes += 10 * MIN_BODY_BYTES_A_SECOND
    clock.has_come_on(now=20)
    clock.begin(Owed.HEAD, now=20)
    clock.begin(Owed.BODY, now=21)
    assert clock.due == 51
    refused = clock.refusal(has_begun=False)
    assert refused is not None
    assert refused.detail.startswith("No whole request body within 30 s")
    clock.begin(Owed.HEAD, now=30)
    clock.body_bytes += MIN_BODY_BYTES_A_SECOND  # arrived with its head and took no time
    clock.begin(Owed.BODY, now=31)
    clock.has_come_on(now=40)
    assert (clock.due, clock.body_bytes) == (61, MIN_BODY_BYTES_A_SECOND)
    clock.begin(Owed.HEAD, now=50)
    refused = clock.refusal(has_begun=True)
    assert refused is not None
    assert refused.detail == "No whole request head within 30 s"


@pytest.mark.parametrize(
    ("looks", "has_stalled"),
    [
        ([(0, 0), (59, 0), (61, 0)], False),  # nothing to read
        ([(0, 9), (59, 9)], False),
        ([(1000, 9)], False),
        ([(0, 9), (60, 9)], True),
        ([(0, 1), (60, 1)], True),
        ([(0, 9), (30, 8), (60, 8)], False),  # reads one byte after 30 s at the latest
        ([(0, 9), (30, 8), (90, 8)], True),
        ([(0, 9), (30, 12), (60, 12)], True),  # another answer is added
        ([(0, 9), (30, 0), (31, 9), (90, 9)], False),
        ([(0, 9), (30, 0), (31, 9), (91, 9)], True),
    ],
)
def test_reader_without_progress_has_stalled(looks: list[tuple[float, int]], has_stalled: bool) -> None:
    """Fewer unread bytes, or none, are progress."""
    clock = ClientClock(TIMEOUTS, KEEP_ALIVE_S)
    told = [clock.has_stalled(unread_bytes, now) for now, unread_bytes in looks]
    assert told[-1] is has_stalled
    assert not any(told[:-1])


def test_reader_that_caught_up_between_two_checks_has_not_stalled() -> None:
    """The same number of unread bytes may belong to another answer."""
    clock = ClientClock(TIMEOUTS, KEEP_ALIVE_S)
    clock.has_stalled(9, now=0)
    clock.has_read()
    assert not clock.has_stalled(9, now=60)


@pytest.mark.parametrize("timeouts", [TIMEOUTS, ClientTimeouts(1, 60), ClientTimeouts(60, 1)])
def test_checks_are_frequent_enough(timeouts: ClientTimeouts) -> None:
    """Nothing that starts after a check is due before the next one, and a reader is checked several times."""
    assert timeouts.look_every_s <= timeouts.body_s
    assert timeouts.look_every_s <= timeouts.read_s / 4


HOST = (b"host", b"router")


@pytest.mark.parametrize(
    ("version", "headers", "reason"),
    [
        ("1.1", [HOST], None),
        ("1.0", [], None),
        ("1.0", [HOST], None),
        ("1.1", [HOST, (b"transfer-encoding", b" Chunked\t")], None),
        ("1.1", [], "no Host"),
        ("1.1", [HOST, HOST], "more than one Host"),
        ("1.0", [HOST, HOST], "more than one Host"),
        ("1.1", [HOST, (b"transfer-encoding", b"gzip, chunked")], "Transfer-Encoding other than chunked"),
        ("1.1", [HOST, (b"transfer-encoding", b"")], "Transfer-Encoding other than chunked"),
        ("1.0", [HOST, (b"transfer-encoding", b"chunked")], "Transfer-Encoding in HTTP/1.0"),
        ("0.9", [], "HTTP/0.9"),
        ("2.0", [HOST], "HTTP/2.0"),
    ],
)
def test_head_is_refused_with_a_reason(version: str, headers: list[tuple[bytes, bytes]], reason: str | None) -> None:
    """The reason names what is wrong with Host, coding or version."""
    refused = refusal(version, headers)
    assert (refused and (refused.status, refused.detail)) == (reason and (400, f"Malformed request: {reason}"))


def test_head_s_length_is_the_sum_of_its_lines() -> None:
    """The length counts names, values and the characters between and after them."""
    head = b"POST /run_code HTTP/1.1\r\nhost: router\r\nx: y\r\n\r\n"
    rest = len(b"POST  HTTP/1.1\r\n\r\n")
    assert head_bytes(b"/run_code", [HOST, (b"x", b"y")]) == len(head) - rest
