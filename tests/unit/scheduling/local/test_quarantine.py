"""Which jobs are convicted of breaking workers."""

from router.scheduling.local.quarantine import Quarantine
from router.scheduling.messages import Rules


def test_job_that_breaks_two_workers_is_refused_for_a_while() -> None:
    """One broken worker may be chance; the second one quarantines the job for a while."""
    quarantine = Quarantine(Rules(quarantine_ms=1000))
    quarantine.hear_of_death("bad", "http://a", "p:1", 0, now=0)
    assert not quarantine.holds("bad", 1)
    quarantine.hear_of_death("bad", "http://b", "p:2", 0, now=10)
    assert quarantine.holds("bad", 11)
    assert not quarantine.holds("bad", 1010)
    assert (quarantine.held(1009), quarantine.held(1010)) == ({"bad"}, set())


def test_innocent_neighbours_are_not_convicted() -> None:
    """One job breaks worker after worker beside three new jobs each time, and only that job is convicted."""
    quarantine = Quarantine(Rules())
    neighbours = iter(range(1000))
    now = 0
    while not quarantine.holds("bad", now):
        now += 5000
        for others, job in enumerate(["bad", *(f"good-{next(neighbours)}" for _ in range(3))]):
            quarantine.hear_of_death(job, f"http://{now}", f"p:{now}-{others}", 3 - others, now)
    assert now == 8 * 5000
    assert quarantine.held(now) == {"bad"}
