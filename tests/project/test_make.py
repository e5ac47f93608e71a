"""What `make run` installs, starts and says, in a checkout without a virtual environment."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with what make needs to know of a checkout."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make there, as if no other make ran this test."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    return subprocess.run(["make", *arguments], cwd=checkout, env=env, capture_output=True, text=True, check=False)


def test_make_run_installs_what_running_needs_and_takes_a_port(checkout: Path) -> None:
    """A newcomer waited two minutes in silence for what only the checks need."""
    steps = make(checkout, "--dry-run", "run", "PORT=8001").stdout
    assert "[dev" not in steps
    assert "Installing what the router needs" in steps
    assert steps.strip().endswith("sfr up --local-workers 3 --port 8001")
    assert "[dev,docs,traces]" in make(checkout, "--dry-run", "lint").stdout


def test_missing_venv_is_told_by_its_package_s_name(checkout: Path) -> None:
    """Debian's python3 comes without ensurepip; what it says of that, it says after half of the work."""
    python = checkout / "python"
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\n')
    python.chmod(0o755)
    made = make(checkout, "run", f"PYTHON={python}")
    assert made.returncode != 0
    assert "apt-get install python3-venv" in made.stderr
    assert not (checkout / ".venv").exists()
