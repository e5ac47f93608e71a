"""The cost of a request as a number of function calls, which no slow or busy machine changes."""

import pytest

from bench.request_cost import COUNTED, MANY, calls

# By the number of clients (with one, each call of the scheduler serves one job) and by True if each job uses a new
# connection.
COMMITTED = {(MANY, False): 120.7, (1, False): 163.0, (MANY, True): 145.4}
# Another version of Python makes a few calls more or fewer for the same code.
TOLERANCE = 1.02
# The calls that a job of a tenant makes besides: its name, its line, the field of its answer.
MORE_OF_A_TENANT = 6


@pytest.mark.parametrize(("clients", "reconnects"), COMMITTED)
def test_a_request_costs_no_more_calls_than_committed(clients: int, *, reconnects: bool) -> None:
    """A job's way through the process makes no more function calls than committed."""
    a_request = calls(clients, reconnects=reconnects).total() / COUNTED
    committed = COMMITTED[clients, reconnects]
    assert a_request <= committed * TOLERANCE, (
        f"With {clients} clients (reconnects: {reconnects}) a request now makes {a_request:.1f} function calls, but "
        f"{committed} are committed. `python -m bench.request_cost` lists them; compare its output with that of main. "
        "Remove calls, or commit the new number with a reason and its cost in CPU time."
    )


def test_a_tenant_s_request_costs_little_more() -> None:
    """The name is looked up once and told once. A known head has it, so nothing reads it again."""
    more = calls(MANY, is_named=True).total() - calls(MANY).total()
    assert more <= MORE_OF_A_TENANT * COUNTED


@pytest.mark.parametrize(("clients", "reconnects"), COMMITTED)
def test_the_count_is_the_same_each_time(clients: int, *, reconnects: bool) -> None:
    """The count does not depend on chance or time."""
    assert calls(clients, reconnects=reconnects) == calls(clients, reconnects=reconnects)
