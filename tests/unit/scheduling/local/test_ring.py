"""The ring of round robin: how often and at which places it has each worker."""

from collections import Counter
from math import gcd

from hypothesis import given
from hypothesis import strategies as st

from router.fleet.model import Worker
from router.scheduling.local.ring import weighted_ring

weights = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def fleet(of_weights: list[int]) -> list[Worker]:
    """Return workers with these weights in the published order."""
    return [Worker(f"http://{number:02}", weight=weight) for number, weight in enumerate(of_weights)]


@given(weights)
def test_ring_holds_each_worker_as_often_as_its_weight(of_weights: list[int]) -> None:
    """One way around the ring gives each worker exactly its share."""
    workers = fleet(of_weights)
    divisor = gcd(*of_weights)
    assert Counter(weighted_ring(workers)) == {worker.url: worker.weight // divisor for worker in workers}


@given(weights)
def test_ring_is_smooth(of_weights: list[int]) -> None:
    """In any beginning of the ring no worker is two turns away from its share, so there are no bursts."""
    workers = fleet(of_weights)
    ring = weighted_ring(workers)
    had: Counter[str] = Counter()
    for turns, url in enumerate(ring, start=1):
        had[url] += 1
        for worker in workers:
            share = turns * worker.weight / sum(of_weights)
            assert abs(had[worker.url] - share) < 2


def test_empty_fleet_has_an_empty_ring() -> None:
    """Without workers there is no turn."""
    assert weighted_ring([]) == ()


def test_workers_of_equal_weight_take_turns_in_order() -> None:
    """The order is the same in each process and in the script."""
    assert weighted_ring(fleet([1, 1, 1])) == ("http://00", "http://01", "http://02")
