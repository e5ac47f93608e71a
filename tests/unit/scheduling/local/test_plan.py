"""Which workers may get jobs, and in which order a ticket tries them."""

import pytest

from router.fleet.model import Health, Member, Worker
from router.policy.strategy import SPREAD, Strategy
from router.policy.verdict import Blame
from router.scheduling.local.breaker import Breakers
from router.scheduling.local.plan import Plan, Planned
from router.scheduling.messages import TRIAL, Ended, Rules

A, B, C = URLS = ("http://a", "http://b", "http://c")


def planned(strategy: Strategy = Strategy.ROUND_ROBIN, **rules: int) -> tuple[Plan, Breakers]:
    """Return a plan of three workers, and their breakers."""
    breakers = Breakers(Rules(strategy=strategy, failures=1, max_ejected_percent=100, **rules), lambda _url: None)
    plan = Plan(Rules(strategy=strategy), breakers)
    plan.set_fleet(Member(Worker(url)) for url in URLS)
    assert plan.make_if_stale()
    return plan, breakers


@pytest.mark.parametrize(
    ("conditions", "routed"),
    [
        ("HHH", "abc"),
        ("HUX", "a"),
        ("UUX", "ab"),
        ("XXX", ""),
    ],
)
def test_plan_has_healthy_workers_or_else_unchecked_ones(conditions: str, routed: str) -> None:
    """The plan agrees with `routable`, and a drained worker gets no jobs."""
    health = {"H": Health.HEALTHY, "U": Health.UNKNOWN, "X": Health.UNHEALTHY}
    plan, _ = planned()
    members = [Member(Worker(url), health[it]) for url, it in zip(URLS, conditions, strict=True)]
    plan.set_fleet([*members, Member(Worker("http://d"), is_draining=True)])
    assert plan.make_if_stale()
    assert not plan.make_if_stale()
    assert [url[-1] for url in plan.by_url] == list(routed)
    assert sorted(plan.ring) == sorted(plan.by_url)


def test_ejected_worker_is_in_the_plan_only_for_its_trial() -> None:
    """A worker that left the fleet or was unhealthy returns without its ejection."""
    for health in (None, Health.UNHEALTHY):
        plan, breakers = planned(base_ms=100)
        breakers.judge(Ended(A, 1, Blame.FAULT), "p:1", 0, 3)
        assert plan.make_if_stale()
        assert list(plan.by_url) == [B, C]
        breakers.open_trials(99)
        assert not plan.make_if_stale()
        breakers.open_trials(100)
        assert plan.make_if_stale()
        assert plan.by_url == {A: Planned(TRIAL, 1), B: Planned(0, 1), C: Planned(0, 1)}
        others = [Member(Worker(url)) for url in (B, C)]
        plan.set_fleet([*others, Member(Worker(A), health)] if health else others)
        assert plan.make_if_stale()
        plan.set_fleet([*others, Member(Worker(A))])
        assert plan.make_if_stale()
        assert plan.by_url[A] == Planned(0, 1)


@pytest.mark.parametrize("ticket", [0, 1, 2, 3, 4])
def test_ticket_is_the_place_where_the_search_starts(ticket: int) -> None:
    """The order goes around the ring; with random, each ticket of a call starts at another place."""
    round_robin, by_chance = planned()[0], planned(Strategy.RANDOM)[0]
    for plan, start in ((round_robin, ticket), (by_chance, 5 + SPREAD * ticket)):
        order = list(plan.in_order(ticket, 5, lambda _url: None))
        assert order == [URLS[(start + number) % 3] for number in range(3)]


@pytest.mark.parametrize(("ticket", "order"), [(0, [B, C, A]), (1, [C, B, A]), (2, [B, C, A])])
def test_least_loaded_workers_come_first_and_equal_ones_take_turns(ticket: int, order: list[str]) -> None:
    """A worker without room is not tried."""
    plan, _ = planned(Strategy.LEAST_LOADED)
    load = {A: 2.0, B: 1.0, C: 1.0}
    assert list(plan.in_order(ticket, 0, load.get)) == order
    del load[B]
    assert list(plan.in_order(ticket, 0, load.get)) == [C, A]


def test_equally_loaded_workers_are_in_the_script_s_order() -> None:
    """The order is by cap and weight as text, then by URL, so that script and twin choose the same worker."""
    plan, _ = planned(Strategy.LEAST_LOADED)
    plan.set_fleet(Member(Worker(url, max_concurrency=cap)) for url, cap in zip(URLS, (3, 20, 20), strict=True))
    plan.make_if_stale()
    assert list(plan.in_order(0, 0, lambda _url: 0.0)) == [B, C, A]


@pytest.mark.parametrize("strategy", Strategy)
def test_empty_plan_tries_no_worker(strategy: Strategy) -> None:
    """Its ring has no place."""
    plan, _ = planned(strategy)
    plan.set_fleet([])
    plan.make_if_stale()
    assert list(plan.in_order(1, 1, lambda _url: 0.0)) == []
