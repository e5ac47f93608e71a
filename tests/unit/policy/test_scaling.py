"""How many slots the fleet needs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.policy.scaling import Has, Kind, Waiting, wanted, whole

PLAIN, GPU, PYTHON, BOTH = Kind(), Kind(("gpu",)), Kind((), ("python",)), Kind(("gpu", "ib"))


def needs(kinds: dict[Kind, Has], *waiting: Waiting, target_wait_s: float = 10.0) -> dict[str, float]:
    """Return the wanted slots of each pool."""
    return {each.pool: each.slots_wanted for each in wanted(kinds, waiting, target_wait_s)}


def test_idle_fleet_needs_nothing_and_a_busy_one_what_runs() -> None:
    """Without pending jobs the wanted slots are the running jobs: workers without any may go."""
    assert needs({PLAIN: Has(4, 32, 0)}) == {"": 0}
    assert needs({PLAIN: Has(4, 32, 9)}) == {"": 9}


def test_pending_jobs_need_the_slots_that_begin_them_within_the_target() -> None:
    """Twice the jobs, or jobs twice as long, or half the target need twice as many slots more."""
    has = {PLAIN: Has(1, 8, 8)}
    assert needs(has, Waiting("", 40, 3.0)) == {"": 8 + 12}
    assert needs(has, Waiting("", 80, 3.0)) == needs(has, Waiting("", 40, 6.0)) == {"": 8 + 24}
    assert needs(has, Waiting("", 40, 3.0), target_wait_s=5.0) == {"": 8 + 24}


@pytest.mark.parametrize(
    ("pool", "kind"),
    [
        ("", ";python"),  # workers without a label before those with one
        ("gpu", "gpu"),  # before those with one label more
        ("ib", "gpu,ib"),
        (";python", ";python"),  # before those that run every language
        (";cpp", ""),
        ("gpu;python", "gpu"),
        ("fpga", "fpga"),  # no worker has it, and the need is shown all the same
    ],
)
def test_pending_jobs_count_for_the_workers_that_can_do_least_else(pool: str, kind: str) -> None:
    """Otherwise a queue of plain jobs would start workers with GPUs."""
    kinds = dict.fromkeys((PLAIN, GPU, PYTHON, BOTH), Has(1, 4, 1))
    before = needs(kinds)
    grown = {name for name, slots in needs(kinds, Waiting(pool, 10, 1.0)).items() if slots != before.get(name)}
    assert grown == {kind}


def test_alike_kinds_share_pending_jobs_by_their_workers() -> None:
    """Two Deployments with a label each grow by the plain jobs together, not each by all of them."""
    kinds = {Kind(("a",)): Has(1, 4, 0), Kind(("b",)): Has(3, 12, 0)}
    assert needs(kinds, Waiting("", 40, 1.0)) == {"a": 1.0, "b": 3.0}


def test_wanted_workers_are_whole_ones_of_the_mean_cap() -> None:
    """A worker without a cap has no number of slots, and so there is no number of workers."""
    (found,) = wanted({PLAIN: Has(2, 8, 8)}, [Waiting("", 1, 1.0)], 10.0)
    assert (found.slots_wanted, found.workers_wanted) == (8.1, 3)
    (found,) = wanted({PLAIN: Has(3, 12, 12)}, [], 10.0)
    assert found.workers_wanted == 3
    assert whole(wanted({PLAIN: Has(2, None, 5), GPU: Has(1, 4, 0)}, [], 10.0)).workers_wanted is None
    assert whole([]).workers_wanted is None


POOLS = st.sampled_from(["", "gpu", "ib", ";python", ";cpp", "gpu;python", "fpga"])
KINDS = st.dictionaries(
    st.sampled_from([PLAIN, GPU, PYTHON, BOTH]),
    st.builds(Has, st.integers(1, 9), st.integers(1, 99), st.integers(0, 99)),
)


@given(KINDS, st.lists(st.builds(Waiting, POOLS, st.integers(0, 999), st.floats(0.01, 99))), st.floats(0.1, 99))
def test_parts_add_up_to_the_whole(kinds: dict[Kind, Has], waiting: list[Waiting], target_wait_s: float) -> None:
    """No job counts twice or not at all, whatever workers there are."""
    found = whole(wanted(kinds, waiting, target_wait_s))
    seconds = sum(each.jobs * each.seconds_each for each in waiting)
    assert found.waiting == pytest.approx(sum(each.jobs for each in waiting))
    assert found.waiting_s == pytest.approx(seconds)
    running = sum(has.running for has in kinds.values())
    assert found.slots_wanted == pytest.approx(running + seconds / target_wait_s)
