"""The bar shown while a command waits."""

import sys
import time
from io import StringIO

import pytest

from router.cli.spinner import waiting


@pytest.mark.parametrize(("after_s", "is_shown"), [(0.0, True), (60.0, False)])
def test_only_long_waits_are_shown(monkeypatch: pytest.MonkeyPatch, after_s: float, is_shown: bool) -> None:
    """The bar appears only on a terminal and after a while, and is erased at the end."""
    terminal = StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    with waiting("waiting for an answer", after_s=after_s):
        until = time.monotonic() + 20
        while is_shown and "for an answer" not in terminal.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
    assert ("waiting for an answer" in terminal.getvalue()) is is_shown
    assert not is_shown or terminal.getvalue().endswith("\x1b[2K")  # the line is erased
