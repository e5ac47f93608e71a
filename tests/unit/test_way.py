"""What a request costs is held by counting function calls: no clock, so no machine is too slow or too busy for it."""

from bench.way import COUNTED, calls

COMMITTED = 119.8
# Another Python makes a few calls more or less of the same code.
TOLERANCE = 1.02


def test_a_request_costs_no_more_calls_than_committed() -> None:
    """A job's whole way through the process makes no more function calls than when it was last looked at."""
    a_request = calls().total() / COUNTED
    assert a_request <= COMMITTED * TOLERANCE, (
        f"A request now makes {a_request:.1f} function calls, {COMMITTED} are committed. `python -m bench.way` names "
        "them, here and on main: make fewer of them; or, where what they buy is worth it, commit the new number, with "
        "its reason and the µs that it costs."
    )


def test_the_count_is_the_same_each_time() -> None:
    """Nothing in it is left to chance or to time."""
    assert calls() == calls()
