"""`make run` in a checkout without a virtual environment: what it installs, starts and prints."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the files of a checkout that make reads."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def make(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make in this folder, without the variables of a make that may run this test."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "MFLAGS"}
    return subprocess.run(["make", *arguments], cwd=checkout, env=env, capture_output=True, text=True, check=False)


def test_make_run_installs_only_what_the_router_needs(checkout: Path) -> None:
    """A newcomer does not wait for the tools of the checks, and can choose a port."""
    steps = make(checkout, "--dry-run", "run", "PORT=8001").stdout
    assert "[dev" not in steps
    assert "Installing what the router needs" in steps
    assert steps.strip().endswith("sfr up --local-workers 3 --port 8001")
    assert "[dev,docs,traces]" in make(checkout, "--dry-run", "lint").stdout


def test_missing_venv_names_the_package_to_install(checkout: Path) -> None:
    """Debian's python3 has no ensurepip, and its own error comes only after half of the work."""
    python = checkout / "python"
    python.write_text('#!/bin/sh\ncase "$2" in *ensurepip*) exit 1;; esac\n')
    python.chmod(0o755)
    made = make(checkout, "run", f"PYTHON={python}")
    assert made.returncode != 0
    assert "apt-get install python3-venv" in made.stderr
    assert not (checkout / ".venv").exists()
