"""Which pools a fleet has: by the labels, languages and memory of its workers."""

import pytest

from router.fleet.model import Worker
from router.policy.pools import Pool, Pools

PLAIN = Worker("http://a")
GPU = Worker("http://b", labels=("gpu",), languages=("cuda", "python"), memory_mb=4000)
LARGE = Worker("http://c", labels=("gpu", "ib"), languages=("cuda", "python"), memory_mb=64_000)
TWIN = Worker("http://d", labels=("gpu", "ib"), languages=("cuda", "python"), memory_mb=32_000)
EVERY = Pools([PLAIN, GPU, LARGE, TWIN])


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("", Pool(is_empty=False)),
        (";python", Pool(is_empty=False)),
        ("gpu", Pool(is_empty=False, largest_mb=64_000)),
        ("gpu,ib;cuda", Pool(is_empty=False, largest_mb=64_000)),
        ("gpu;cpp", Pool(is_empty=True, largest_mb=0)),
        ("gpu,tpu", Pool(is_empty=True, largest_mb=0)),
    ],
)
def test_pool_has_the_workers_that_serve_it(name: str, pool: Pool) -> None:
    """A worker without languages takes each; one whose memory is not counted takes jobs of any size."""
    assert EVERY.pool(name) == EVERY.pool(name) == pool


def test_fleet_of_plain_workers_counts_neither_languages_nor_memory() -> None:
    """Then jobs are not looked at; one worker that differs is enough for them to count."""
    plain = Pools([PLAIN, PLAIN])
    assert (plain.labels, plain.lists_languages, plain.counts_memory) == (frozenset(), False, False)
    assert (EVERY.labels, EVERY.lists_languages, EVERY.counts_memory) == (frozenset({"gpu", "ib"}), True, True)
    assert Pools([PLAIN, Worker("http://e", memory_mb=1)]).counts_memory
