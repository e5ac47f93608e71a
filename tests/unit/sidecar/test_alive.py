"""The file by whose age a supervisor sees that the sidecar goes on."""

import os
from pathlib import Path

import pytest

from sidecar.alive import FILE_VARIABLE, Alive


def test_file_that_the_environment_names_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made if it is missing, and gets the time of now; without the variable nothing is done."""
    file = tmp_path / "alive"
    monkeypatch.setenv(FILE_VARIABLE, str(file))
    alive = Alive.from_environment()
    alive.tell()
    os.utime(file, (1, 1))
    alive.tell()
    assert file.stat().st_mtime > 1
    monkeypatch.delenv(FILE_VARIABLE)
    Alive.from_environment().tell()


def test_file_that_cannot_be_touched_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The sidecar goes on, and the log names the variable and the file."""
    alive = Alive(tmp_path / "missing" / "alive")
    alive.tell()
    alive.tell()
    assert len(caplog.records) == 1
    assert f"{FILE_VARIABLE}={tmp_path}/missing/alive cannot be touched: No such file" in caplog.text
