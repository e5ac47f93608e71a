"""How many retries the whole fleet may make."""

from router.scheduling.messages import Rules
from router.scheduling.retry_budget import RetryBudget


def test_budget_is_a_share_of_jobs_and_some_a_second() -> None:
    """Under a load that always wants to retry, 20 % of the jobs and 10 a second are retried, over any time."""
    budget = RetryBudget(Rules())
    taken = 0
    for tick in range(600):  # 50 jobs a tick of 100 ms
        taken += sum(budget.take(tick * 100, tick * 50) for _ in range(50))
    assert 0.95 <= taken / (0.2 * 600 * 50 + 10 * 60) <= 1.01


def test_saved_retries_run_off() -> None:
    """An hour of good jobs pays for no more than its last seconds."""
    budget = RetryBudget(Rules())
    for second in range(3600):
        budget.fill(second * 1000, second * 100)
    taken = sum(budget.take(3600 * 1000, 3600 * 100) for _ in range(10_000))
    assert 0.9 <= taken / (0.2 * 100 * 10 + 10 * 10) <= 1.1
