"""Which workers run each language, as the dashboard's view of languages shows them."""

from router.dashboard.details import Language, languages
from router.fleet.model import Health, Worker, WorkerRecord


def seen(*listed: str, cap: int | None = 4, health: Health = Health.HEALTHY) -> tuple[WorkerRecord, Health]:
    """Return a worker that lists these languages."""
    return WorkerRecord(Worker("http://a", max_concurrency=cap, languages=listed)), health


def test_worker_without_a_list_runs_every_language() -> None:
    """It counts for each language. Pending jobs of all pools with a language count for it."""
    fleet = [seen("cpp", "python"), seen("python", health=Health.EJECTED), seen(cap=8)]
    assert languages(fleet, {"gpu;python": 2, ";python": 1, "": 5}) == [
        Language("cpp", 2, 2, 12, 0),
        Language("python", 3, 2, 16, 3),
        Language("", 1, 1, 8, 5),
    ]


def test_one_worker_without_a_cap_leaves_the_slots_unknown() -> None:
    """Without any list there is one row, for every language."""
    assert languages([seen(cap=None), seen()], {}) == [Language("", 2, 2, None, 0)]
    assert languages([], {}) == [Language("", 0, 0, None, 0)]
