"""How much the fleet may run beyond its jobs."""

from router.scheduling.local.budget import budget_for_hedges, budget_for_retries
from router.scheduling.messages import Rules


def test_budget_is_a_share_of_the_jobs_plus_some_a_second() -> None:
    """If all jobs want retries, the budget allows a fifth of the jobs plus ten a second over any time."""
    budget = budget_for_retries(Rules())
    taken = 0
    for tick in range(600):  # 50 jobs a tick of 100 ms
        taken += sum(budget.take(tick * 100, tick * 50) for _ in range(50))
    assert 0.95 <= taken / (0.2 * 600 * 50 + 10 * 60) <= 1.01


def test_saved_retries_decay() -> None:
    """An hour of good jobs saves no more than its last seconds."""
    budget = budget_for_retries(Rules())
    for second in range(3600):
        budget.fill(second * 1000, second * 100)
    taken = sum(budget.take(3600 * 1000, 3600 * 100) for _ in range(10_000))
    assert 0.9 <= taken / (0.2 * 100 * 10 + 10 * 10) <= 1.1


def test_second_runs_are_a_share_of_the_jobs() -> None:
    """Whatever is asked for, second runs are no more than their share of all jobs."""
    budget = budget_for_hedges(Rules(hedge_percent=2))
    taken = sum(budget.take(tick * 100, tick * 50) for tick in range(600) for _ in range(5))
    assert 0.97 <= taken / (0.02 * 600 * 50) <= 1


def test_batch_that_came_at_once_has_second_runs_left_at_its_end() -> None:
    """A minute after the arrival of a thousand jobs most of their second runs are left."""
    budget = budget_for_hedges(Rules(hedge_percent=2))
    for beat in range(121):
        budget.fill(beat * 500, 1000 if beat else 0)
    assert 18 <= sum(budget.take(60_500, 1000) for _ in range(1000)) <= 20
