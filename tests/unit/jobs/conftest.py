"""What the tests of jobs share."""

import pytest

from tests.support.timeless import keep_loop_time


@pytest.fixture
def loop_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the clock of the dispatcher and its jobs be the loop's."""
    keep_loop_time(monkeypatch, "jobs.dispatcher", "jobs.job")
