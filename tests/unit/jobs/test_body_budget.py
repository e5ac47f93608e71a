"""The count of request bodies in memory is exact, whatever ends a request."""

from contextlib import ExitStack, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.jobs.body_budget import BodyBudget, BodyBudgetFull


@given(st.lists(st.lists(st.integers(0, 40), max_size=4), max_size=6), st.integers(0, 100))
def test_count_is_the_sum_of_all_parts_and_never_exceeds_the_limit(bodies: list[list[int]], limit: int) -> None:
    """Parts that do not fit are refused and not counted, and at the end nothing is held."""
    buffers, taken = BodyBudget(limit), 0
    with ExitStack() as requests:
        for parts in bodies:
            share = requests.enter_context(buffers.share())
            for part in parts:
                if taken + part > limit:
                    with pytest.raises(BodyBudgetFull):
                        share.grow(part)
                else:
                    share.grow(part)
                    taken += part
                assert buffers.held_bytes == taken <= limit
    assert buffers.held_bytes == 0


def test_share_is_returned_once_whatever_ends_the_request() -> None:
    """An error, a part that does not fit and an early return leave the bytes of other shares counted."""
    buffers = BodyBudget(10)
    with buffers.share() as other:
        other.grow(3)
        with suppress(ZeroDivisionError), buffers.share() as share:
            share.grow(7)
            raise ZeroDivisionError
        with suppress(BodyBudgetFull), buffers.share() as share:
            share.grow(7)
            share.grow(1)
        with buffers.share() as share:
            share.grow(7)
            share.give_back()
            share.give_back()
            assert buffers.held_bytes == 3
        assert buffers.held_bytes == 3
    assert buffers.held_bytes == 0


def test_body_as_large_as_the_buffers_fits_alone() -> None:
    """No bytes are reserved for others, so a single request always fits."""
    with BodyBudget(10).share() as share:
        share.grow(10)


def test_transferred_share_is_held_until_its_new_owner_returns_it() -> None:
    """A late attempt holds its job's body in this way."""
    buffers = BodyBudget(10)
    with buffers.share() as share:
        share.grow(7)
        heir = share.hand_over()
    assert buffers.held_bytes == 7
    with heir:
        pass
    assert buffers.held_bytes == 0
