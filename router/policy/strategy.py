"""Routing strategies: where the search for a worker with room begins. scheduling/lua/selection.lua decides alike."""

from enum import StrEnum

# With `random`, the jobs of one call share a random number, and this factor sets their starting places apart. It is a
# prime: a factor of 3 in it would send all jobs of a call to one of three workers.
SPREAD = 40_507
# A worker that takes so many times as long as most is slow: it gets a job only if no other worker can.
SLOWER_THAN = 1.5


class Strategy(StrEnum):
    """What a ticket means: a place in the ring, a random place, or a place among workers with equal load."""

    ROUND_ROBIN = "round_robin"
    RANDOM = "random"
    LEAST_LOADED = "least_loaded"


def start(strategy: Strategy, ticket: int, seed: int, places: int) -> int | None:
    """Return the place in a ring of so many `places` from which on workers are asked; None: by their load.

    >>> [start(strategy, 7, 0, 5) for strategy in (Strategy.ROUND_ROBIN, Strategy.LEAST_LOADED)]
    [2, None]
    """
    match strategy:
        case Strategy.ROUND_ROBIN:
            return ticket % places
        case Strategy.RANDOM:
            return (seed + SPREAD * ticket) % places
        case Strategy.LEAST_LOADED:
            return None
