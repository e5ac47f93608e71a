"""Decides the ring of round robin: each worker as often as its weight, evenly spread. Slow workers have a ring apart.

A ticket names the place in the ring where the search for room starts. lua/ring.lua lays the same ring.
"""

from collections.abc import Collection, Sequence
from math import gcd

from router.fleet.model import Worker


def rings(workers: Sequence[Worker], slow: Collection[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the ring of these workers, and that of the slow ones, which come behind. If all are slow, none is.

    >>> rings([Worker("a"), Worker("b"), Worker("c")], {"b"}), rings([Worker("b")], {"b"})
    ((('a', 'c'), ('b',)), (('b',), ()))
    """
    behind = [worker for worker in workers if worker.url in slow]
    if len(behind) == len(workers):
        return weighted_ring(workers), ()
    return weighted_ring([worker for worker in workers if worker.url not in slow]), weighted_ring(behind)


def weighted_ring(workers: Sequence[Worker]) -> tuple[str, ...]:
    """Return the URLs in smooth weighted order: each as often as its weight, divided by their common divisor.

    It is nginx' smooth weighted round robin, over classes of equal weight instead of single workers: a class has a turn
    as often as its members together, and its members take those turns one after another. That spreads as evenly, and
    costs turns times classes instead of turns times workers.

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
