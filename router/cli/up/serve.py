"""`sfr serve`: the router's processes alone, for a supervisor that starts Redis and the sidecar by itself."""

import os
import sys

import typer

from router.cli.carried import GUNICORN_SETTINGS, carried


def serve(context: typer.Context) -> None:
    """Start the router's processes: gunicorn, with the settings that the router needs. All options are gunicorn's.

    Redis and the sidecar (`python -m sidecar`) are started by others. `sfr up` starts all of it.

    Example: `sfr serve --bind 127.0.0.1:8000 --workers 4`
    """
    argv = [sys.executable, "-m", "gunicorn", "--config", str(carried(GUNICORN_SETTINGS)), *context.args]
    # In the place of this process, so that signals and systemd's notifications are gunicorn's own.
    os.execv(sys.executable, argv)  # noqa: S606  (gunicorn reads its arguments without a shell)
