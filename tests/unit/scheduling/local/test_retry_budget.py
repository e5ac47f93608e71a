"""How much the fleet may retry."""

from router.scheduling.local.retry_budget import RetryBudget
from router.scheduling.messages import Rules


def test_budget_is_a_share_of_the_jobs_plus_some_a_second() -> None:
    """If all jobs want retries, the budget allows a fifth of the jobs plus ten a second over any time."""
    budget = RetryBudget(Rules())
    taken = 0
    for tick in range(600):  # 50 jobs a tick of 100 ms
        taken += sum(budget.take(tick * 100, tick * 50) for _ in range(50))
    assert 0.95 <= taken / (0.2 * 600 * 50 + 10 * 60) <= 1.01


def test_saved_retries_decay() -> None:
    """An hour of good jobs saves no more than its last seconds."""
    budget = RetryBudget(Rules())
    for second in range(3600):
        budget.fill(second * 1000, second * 100)
    taken = sum(budget.take(3600 * 1000, 3600 * 100) for _ in range(10_000))
    assert 0.9 <= taken / (0.2 * 100 * 10 + 10 * 10) <= 1.1
