"""Processes that share one socket know each other's number of clients."""

import os
import time

import pytest

from router.downstream.balance import ConnectionBalance, is_ahead


def test_places_of_ended_processes_are_reused() -> None:
    """The places suffice for any number of replaced processes, and processes without a place are not balanced."""
    crowd = ConnectionBalance()
    first, second = crowd.enter(), crowd.enter()
    assert first != second
    for _ in range(1000):
        crowd.leave(second)
        assert crowd.enter() == second
    others = [crowd.enter() for _ in range(300)]
    given = [place for place in others if place is not None]
    assert len(set(given)) == len(given) > 200
    assert others[-1] is None
    crowd.has(7)
    assert not crowd.is_ahead
    crowd.leave(None)


def test_process_with_more_clients_gives_way_to_a_forked_one() -> None:
    """It gives way until the other process has as many clients or has ended."""
    crowd = ConnectionBalance()
    other = crowd.enter()
    clients, told = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(told)  # otherwise it would never see the pipe's end
        while said := os.read(clients, 1):
            crowd.has(said[0])
        os._exit(0)
    try:
        crowd.enter()
        crowd.has(20)
        assert crowd.is_ahead
        os.write(told, bytes([200]))
        deadline = time.monotonic() + 10
        while crowd.is_ahead:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        crowd.leave(other)
        assert not crowd.is_ahead
    finally:
        os.close(told)
        os.waitpid(pid, 0)
        os.close(clients)


@pytest.mark.parametrize(
    ("own", "of_all", "gives_way"),
    [
        (64, [64], False),  # the only process
        (17, [17, 16, 16, 16], False),
        (24, [24, 13, 13, 14], True),
        (24, [24, -1, -1, 24], False),  # two have ended
        (100, [100, 100, 100, 0], True),  # one new process
        (2, [2, 0, 0, 0], True),
        (1, [1, 0, 0, 0], False),
    ],
)
def test_only_a_process_ahead_of_the_mean_gives_way(own: int, of_all: list[int], *, gives_way: bool) -> None:
    """A small difference is chance and does not count."""
    assert is_ahead(own, of_all) is gives_way
