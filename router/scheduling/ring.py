"""Who may get jobs, and the ring that round robin goes around.

The ring lists each worker as often as its weight, evenly spread; a ticket names the place in it where the search for
room starts. scheduler.lua lays the same ring.
"""

from collections.abc import Sequence
from math import gcd

from router.fleet.model import Worker


def weighted_ring(workers: Sequence[Worker]) -> tuple[str, ...]:
    """Return the URLs in smooth weighted order: each as often as its weight, divided by their common divisor.

    nginx' smooth weighted round robin, run over classes of equal weight instead of single workers: a class has its
    turn as often as its members together, and its members take the turns one after another. That spreads as evenly,
    and costs turns x classes instead of turns x workers, which for 1,000 workers of 4 weights is 250 times less.

    >>> weighted_ring([Worker("a", weight=3), Worker("b")])
    ('a', 'a', 'b', 'a')
    """
    if not workers:
        return ()
    classes: dict[int, list[str]] = {}
    for worker in workers:
        classes.setdefault(worker.weight, []).append(worker.url)
    divisor = gcd(*classes)
    shares = {weight: weight // divisor * len(urls) for weight, urls in classes.items()}
    total = sum(shares.values())
    credit = dict.fromkeys(shares, 0)
    turns = dict.fromkeys(shares, 0)
    ring = []
    for _ in range(total):
        for weight, share in shares.items():
            credit[weight] += share
        chosen = max(credit, key=credit.__getitem__)
        credit[chosen] -= total
        ring.append(classes[chosen][turns[chosen] % len(classes[chosen])])
        turns[chosen] += 1
    return tuple(ring)


def places_in_ring(workers: Sequence[Worker]) -> tuple[list[str], dict[str, list[int]]]:
    """Return the weighted ring, and each URL's places in it.

    >>> places_in_ring([Worker("a", weight=2), Worker("b")])
    (['a', 'b', 'a'], {'a': [0, 2], 'b': [1]})
    """
    ring = list(weighted_ring(workers))
    places: dict[str, list[int]] = {}
    for place, url in enumerate(ring):
        places.setdefault(url, []).append(place)
    return ring, places
