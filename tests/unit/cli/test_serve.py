"""`sfr serve`, up to the moment in which gunicorn takes its place."""

import os
from collections.abc import Sequence

import pytest
from typer.testing import CliRunner

from router.cli.main import app

cli = CliRunner()


@pytest.mark.parametrize("given", ["abc", "0", "-1", "1.5", "1001", "9" * 5000])
def test_bad_number_of_processes_is_told_in_our_words(given: str) -> None:
    """Left alone, gunicorn would end with a traceback, or start no process, or too many."""
    done = cli.invoke(app, ["serve"], env={"WEB_CONCURRENCY": given})
    assert done.exit_code == 2
    assert "WEB_CONCURRENCY: expected a whole number of processes from 1 to 1000, got" in done.output


@pytest.mark.parametrize(("given", "left"), [("", None), (" ", None), ("3", "3"), (None, None)])
def test_gunicorn_gets_a_good_number_of_processes(
    given: str | None, left: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty variable, as a line `WEB_CONCURRENCY=` of systemd's file makes it, is none."""
    seen: list[tuple[Sequence[str], str | None]] = []
    monkeypatch.setattr(os, "execv", lambda _, argv: seen.append((argv, os.environ.get("WEB_CONCURRENCY"))))
    done = cli.invoke(app, ["serve", "--bind", "127.0.0.1:0"], env={"WEB_CONCURRENCY": given})
    assert done.exit_code == 0
    ((argv, processes),) = seen
    assert argv[1:4] == ["-m", "gunicorn", "--config"]
    assert argv[-2:] == ["--bind", "127.0.0.1:0"]
    assert processes == left
