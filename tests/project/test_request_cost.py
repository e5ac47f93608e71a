"""What a request costs is held by counting function calls: no clock, so no machine is too slow or too busy for it."""

import pytest

from bench.request_cost import COUNTED, MANY, calls

# By how many clients there are, one having each call of the scheduler for itself; and whether each job comes over a
# connection of its own.
COMMITTED = {(MANY, False): 120.7, (1, False): 166.0, (MANY, True): 147.3}
# Another Python makes a few calls more or less of the same code.
TOLERANCE = 1.02


@pytest.mark.parametrize(("clients", "reconnects"), COMMITTED)
def test_a_request_costs_no_more_calls_than_committed(clients: int, *, reconnects: bool) -> None:
    """A job's whole way through the process makes no more function calls than when it was last looked at."""
    a_request = calls(clients, reconnects=reconnects).total() / COUNTED
    committed = COMMITTED[clients, reconnects]
    assert a_request <= committed * TOLERANCE, (
        f"A request of {clients} clients (reconnecting: {reconnects}) now makes {a_request:.1f} function calls, "
        f"{committed} are committed. `python -m bench.request_cost` names them, here and on main: make fewer of them; "
        "or, where what they buy is worth it, commit the new number, with its reason and the µs that it costs."
    )


@pytest.mark.parametrize(("clients", "reconnects"), COMMITTED)
def test_the_count_is_the_same_each_time(clients: int, *, reconnects: bool) -> None:
    """Nothing in it is left to chance or to time."""
    assert calls(clients, reconnects=reconnects) == calls(clients, reconnects=reconnects)
