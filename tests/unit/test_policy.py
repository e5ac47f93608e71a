"""Selection's laws, and what statuses mean."""

from collections import Counter
from math import gcd

from hypothesis import given
from hypothesis import strategies as st

from router.fleet.model import Health, Worker, WorkerRecord
from router.policy.selection import places_in_ring, routable, weighted_ring

weights = st.lists(st.integers(1, 12), min_size=1, max_size=12)


def fleet(of_weights: list[int]) -> list[Worker]:
    """Return workers of these weights, in the published order."""
    return [Worker(f"http://{number:02}", weight=weight) for number, weight in enumerate(of_weights)]


@given(weights)
def test_ring_holds_each_worker_as_often_as_its_weight(of_weights: list[int]) -> None:
    """One way around the ring gives every worker its share exactly."""
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


@given(weights)
def test_places_are_the_ring_read_backwards(of_weights: list[int]) -> None:
    """Every place is listed once, under the worker whose place it is."""
    ring, places = places_in_ring(fleet(of_weights))
    assert sorted(place for its in places.values() for place in its) == list(range(len(ring)))
    assert all(ring[place] == url for url, its in places.items() for place in its)


def test_only_healthy_workers_get_jobs_and_unchecked_ones_where_none_is_healthy() -> None:
    """Unknown is better than nobody; unhealthy, ejected and draining are not."""
    each = {health: (WorkerRecord(Worker(health.value)), health) for health in Health}
    out = [each[health] for health in (Health.UNHEALTHY, Health.EJECTED, Health.DRAINING)]
    healthy, unknown = each[Health.HEALTHY], each[Health.UNKNOWN]
    assert routable([healthy, unknown, *out]) == [healthy[0].worker]
    assert routable([unknown, *out]) == [unknown[0].worker]
    assert routable(out) == []
