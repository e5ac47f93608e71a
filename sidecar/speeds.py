"""Decides how fast workers are, compared with the median of the fleet. It reads no clock.

Jobs of one key differ, because their code does. So a worker counts as faster or slower only where its attempts leave
little doubt.
"""

from collections.abc import Mapping
from math import exp, log, sqrt

from router.config.bounds import MAX_SPEED
from router.fleet.model import Ratios

# Fewer attempts on a worker say nothing.
ENOUGH = 8.0
# Of two workers of a larger fleet nobody can tell which one is normal.
FEW = 2
# How many standard errors a worker's mean must be from the median.
SURE = 4.0
# A worker this near to the median counts as normal. A speed in force stays while the new one is as near to it. So
# speeds do not flutter, and the routers need not read the fleet anew all the time.
NEAR = log(1.15)


def speeds(seen: Mapping[str, Ratios], in_force: Mapping[str, float]) -> dict[str, float]:
    """Return the speed of each worker that is `in_force` with one; 1: normal, or too little is known.

    >>> seen = {"a": Ratios(0.0, 0.0, 10), "b": Ratios(0.0, 0.0, 10), "slow": Ratios(10.99, 12.08, 10)}
    >>> speeds(seen, {"a": 1.0, "b": 0.5, "slow": 1.0, "new": 1.0})
    {'a': 1.0, 'b': 1.0, 'slow': 0.33, 'new': 1.0}
    """
    known = {url: ratios for url, ratios in seen.items() if url in in_force and ratios.count >= ENOUGH}
    if len(known) <= FEW < len(in_force):
        known = {}
    middle = _median([ratios.total / ratios.count for ratios in known.values()])
    return {url: _settled(_speed(known.get(url), middle), before) for url, before in in_force.items()}


def _speed(ratios: Ratios | None, middle: float) -> float:
    if ratios is None:
        return 1.0
    mean = ratios.total / ratios.count
    error = sqrt(max(0.0, ratios.squares / ratios.count - mean * mean) / ratios.count)
    faster = middle - mean
    return 1.0 if abs(faster) < max(NEAR, SURE * error) else min(MAX_SPEED, max(1 / MAX_SPEED, exp(faster)))


def _settled(speed: float, before: float) -> float:
    is_as_before = speed != 1 and before != 1 and abs(log(speed / before)) < NEAR
    return before if is_as_before else round(speed, 2)


def _median(values: list[float]) -> float:
    """Return the mean of the two in the middle: with two workers neither is the normal one. 0 if there are none."""
    ordered, half = sorted(values), len(values) // 2
    return (ordered[half] + ordered[~half]) / 2 if ordered else 0.0
