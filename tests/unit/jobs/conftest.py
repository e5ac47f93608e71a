"""Fixtures of the tests of jobs."""

import pytest

from tests.support.timeless import keep_loop_time


@pytest.fixture
def loop_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the clock of the dispatcher and its jobs by the loop's."""
    keep_loop_time(monkeypatch, "jobs.dispatcher", "jobs.ending", "jobs.job", "jobs.judging", "jobs.sooner.left_runs")
