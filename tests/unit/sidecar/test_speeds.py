"""How fast workers are by what their attempts took, as fixed sums."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.config.bounds import MAX_SPEED
from router.fleet.model import Ratios
from sidecar.speeds import ENOUGH, speeds


def ratios(times: float, count: int = 50, noise: float = 0.0) -> Ratios:
    """Return what is seen of a worker whose attempts take `times` as long as their sizes, with noise."""
    chance, seen = random.Random(f"{times} {count}"), Ratios()
    for _ in range(count):
        ratio = math.log(times) + chance.gauss(0.0, noise)
        seen.add(Ratios(ratio, ratio * ratio, 1))
    return seen


def found(*seen: Ratios, before: float = 1.0) -> list[float]:
    """Return the speeds of workers of which this is seen, and that had the speed `before`."""
    by_url = {str(place): each for place, each in enumerate(seen)}
    return list(speeds(by_url, dict.fromkeys(by_url, before)).values())


@pytest.mark.parametrize("scale", [1.0, 0.5, 1.3])
def test_a_slow_worker_is_known_whatever_the_sizes_are_measured_by(scale: float) -> None:
    """Sizes are means over slow and fast workers, so only the workers' relation counts."""
    assert found(*[ratios(scale, noise=0.3)] * 7, ratios(3 * scale, noise=0.3)) == pytest.approx(
        [1] * 7 + [1 / 3], rel=0.2
    )


def test_of_two_workers_neither_is_the_normal_one() -> None:
    """One is as much faster than their mean as the other is slower."""
    assert found(ratios(1), ratios(3)) == [1.73, 0.58]


def test_of_two_workers_of_a_larger_fleet_nothing_is_known() -> None:
    """The first ones with enough jobs may be the slow ones."""
    assert found(ratios(1), ratios(3), ratios(1, count=1)) == [1, 1, 1]


def test_a_lone_worker_is_normal() -> None:
    """There is nothing to compare it with."""
    assert found(ratios(3)) == [1.0]


def test_little_is_not_enough() -> None:
    """A few attempts say nothing, nor do many that differ by chance more than workers do."""
    assert found(ratios(1), ratios(1), ratios(1), ratios(3, count=int(ENOUGH) - 1)) == [1, 1, 1, 1]
    assert found(ratios(1), ratios(1), ratios(1.5, count=20, noise=1.0)) == [1, 1, 1]


def test_normal_workers_are_normal_however_much_jobs_differ() -> None:
    """Code decides more than the worker: of 50 alike workers none counts as slow."""
    assert set(found(*[ratios(1 + number / 1e9, count=10 + number, noise=1.0) for number in range(50)])) == {1.0}


def test_a_worker_s_speed_does_not_flutter() -> None:
    """It stays as it is while the new one is near; once the worker is near to normal, it is normal."""
    assert found(ratios(1), ratios(1), ratios(3.2), before=0.33)[2] == 0.33
    assert found(ratios(1), ratios(1), ratios(4), before=0.33)[2] == 0.25
    assert found(ratios(1), ratios(1), ratios(1.1), before=0.85)[2] == 1


def test_what_is_forgotten_is_normal_again() -> None:
    """A worker that gets no job any more, or that is new, counts as one that nobody knows."""
    assert speeds({}, {"a": 0.2}) == {"a": 1.0}
    assert speeds({"gone": ratios(3), "b": ratios(1)}, {"b": 1.0}) == {"b": 1.0}


@given(
    st.lists(st.builds(ratios, st.floats(1e-6, 1e6), st.integers(1, 20), st.floats(0, 3)), max_size=5),
    st.floats(1 / MAX_SPEED, MAX_SPEED),
)
def test_speeds_are_within_their_bounds(seen: list[Ratios], before: float) -> None:
    """Whatever is seen, the record can hold it."""
    assert all(1 / MAX_SPEED <= speed <= MAX_SPEED for speed in found(*seen, before=before))
