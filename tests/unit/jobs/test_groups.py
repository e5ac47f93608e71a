"""Which groups have failed, for how long that is remembered, and who is told."""

import asyncio
from collections.abc import Callable

import pytest

from router.jobs.sooner import groups
from router.jobs.sooner.groups import KEPT_S, Group, GroupFailed, Groups
from tests.support.timeless import timeless

OURS, THEIRS = Group("", "us", "g"), Group("", "them", "g")


class Bench:
    """Groups with a clock that the test sets, and a list of what others are told and who is skipped."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[GroupFailed] = []
        self.skipped: list[str] = []
        self.groups = Groups(self.told.append, lambda: self.now)

    def join(self, group: Group, name: str) -> None:
        """Add a member of this name."""
        self.groups.join(group, name, lambda: self.skipped.append(name))


def law(check: Callable[[Bench], None]) -> Bench:
    """Run this check on an event loop, and then all that it has started."""

    async def main() -> Bench:
        bench = Bench()
        check(bench)
        await asyncio.sleep(0)
        return bench

    return timeless(main())


def test_members_of_a_failed_group_are_skipped_and_others_told_once() -> None:
    """Members of another tenant's group of the same name go on, and so do those that have left."""

    def check(bench: Bench) -> None:
        bench.join(OURS, "pending")
        bench.join(OURS, "answered")
        bench.join(THEIRS, "another tenant's")
        bench.groups.leave(OURS, "answered")
        bench.groups.fail(OURS)
        bench.groups.fail(OURS)
        assert (bench.groups.has_failed(OURS), bench.groups.has_failed(THEIRS)) == (True, False)

    bench = law(check)
    assert bench.skipped == ["pending"]
    assert bench.told == [GroupFailed("us", "g")]


def test_note_of_another_process_skips_and_is_not_told_again() -> None:
    """Else processes would tell one another for ever."""

    def check(bench: Bench) -> None:
        bench.join(OURS, "pending")
        bench.groups.hear(GroupFailed("us", "g"))
        bench.groups.fail(OURS)

    bench = law(check)
    assert (bench.skipped, bench.told) == (["pending"], [])


def test_name_is_that_of_a_new_group_after_a_while() -> None:
    """It can then fail again, and others are told again."""

    def check(bench: Bench) -> None:
        bench.groups.fail(OURS)
        bench.now = KEPT_S - 1
        assert bench.groups.has_failed(OURS)
        bench.now = KEPT_S
        assert not bench.groups.has_failed(OURS)
        bench.groups.fail(OURS)

    assert law(check).told == [GroupFailed("us", "g")] * 2


def test_failed_groups_are_remembered_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest is forgotten, so that its jobs are run."""
    monkeypatch.setattr(groups, "MAX_FAILED", 2)

    def check(bench: Bench) -> None:
        for name in "abc":
            bench.groups.fail(Group("", "", name))
        assert [bench.groups.has_failed(Group("", "", name)) for name in "abc"] == [False, True, True]

    law(check)


def test_group_of_a_batch_is_the_batch_s_alone() -> None:
    """No other process is told. It is remembered as long as the batch lasts, and not longer."""

    def check(bench: Bench) -> None:
        first, second = (Group(bench.groups.open(), "us", "g") for _ in range(2))
        bench.groups.fail(first)
        bench.now = 10 * KEPT_S
        assert [bench.groups.has_failed(group) for group in (first, second, OURS)] == [True, False, False]
        bench.groups.close(first.scope)
        bench.groups.fail(first)
        assert not bench.groups.has_failed(first)

    assert law(check).told == []
