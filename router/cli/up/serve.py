"""`sfr serve`: the router's processes alone, for a supervisor that starts Redis and the sidecar by itself."""

import os
import sys
from collections.abc import MutableMapping

import typer

from router.cli.carried import GUNICORN_SETTINGS, carried
from router.cli.failure import BadInput
from router.cli.options import shown
from router.config.bounds import MAX_PROCESSES, whole_number

PROCESSES_VARIABLE = "WEB_CONCURRENCY"


def serve(context: typer.Context) -> None:
    """Start the router's processes: gunicorn, with the settings that the router needs. All options are gunicorn's.

    Redis and the sidecar (`python -m sidecar`) are started by others. `sfr up` starts all of it.

    Example: `sfr serve --bind 127.0.0.1:8000 --workers 4`
    """
    _expect_a_number(os.environ)
    argv = [sys.executable, "-m", "gunicorn", "--config", str(carried(GUNICORN_SETTINGS)), *context.args]
    # In the place of this process, so that signals and systemd's notifications are gunicorn's own.
    os.execv(sys.executable, argv)  # noqa: S606  (gunicorn reads its arguments without a shell)


def _expect_a_number(environment: MutableMapping[str, str]) -> None:
    """Check the number of processes, because gunicorn cannot be imported with a bad one. Raises BadInput."""
    given = environment.get(PROCESSES_VARIABLE, "").strip()
    if not given:
        environment.pop(PROCESSES_VARIABLE, None)
    elif whole_number(given, 1, MAX_PROCESSES) is None:
        raise BadInput(
            f"{PROCESSES_VARIABLE}: expected a whole number of processes from 1 to {MAX_PROCESSES}, got {shown(given)}"
        )
