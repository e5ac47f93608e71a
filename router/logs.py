"""How every program of this project writes its log: to stdout, one line an event, as text or as JSON.

Shared by the router, the sidecar, gunicorn and uvicorn, so that one stream reads alike whoever wrote the line.
"""

import logging.config
import os
import time
from collections.abc import Sequence
from typing import Any

from router.fleet.model import Worker

log = logging.getLogger(__name__)

# What lasts is said once in so long.
SELDOM_S = 60.0
_MAX_SUBJECTS = 10_000
LOG_FORMAT_VARIABLE = "LOG_FORMAT"

_TEXT = {"format": "%(asctime)s %(levelname)s %(message)s"}
_JSON = {
    "()": "pythonjsonlogger.json.JsonFormatter",
    "fmt": "%(asctime)s %(levelname)s %(name)s %(message)s",
    "rename_fields": {"asctime": "time", "levelname": "level", "name": "logger"},
}


def log_config() -> dict[str, Any]:
    """Return a `logging.config.dictConfig` for this process; LOG_FORMAT=json asks for JSON lines."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": _JSON if os.environ.get(LOG_FORMAT_VARIABLE) == "json" else _TEXT},
        "handlers": {"stdout": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stdout"}},
        "root": {"level": "INFO", "handlers": ["stdout"]},
        "loggers": {
            # uvicorn's log goes to this logger's own handlers, under gunicorn.
            "gunicorn.error": {"level": "INFO", "handlers": ["stdout"], "propagate": False},
            # A line for each request would cost more than routing it; x-router-worker and the metrics tell the rest.
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
        },
    }


def set_up() -> None:
    """Send this process' log to stdout, as `log_config` says."""
    logging.config.dictConfig(log_config())


def expect_cut_answers() -> None:
    """Keep uvicorn from calling an unfinished answer a defect: which worker broke it off has been logged by then."""
    logging.getLogger("uvicorn.error").addFilter(_is_no_cut_answer)


def _is_no_cut_answer(record: logging.LogRecord) -> bool:
    return record.msg != "ASGI callable returned without completing response."


class Seldom:
    """Which lines are due that else each job would write: one for each subject, and again after SELDOM_S seconds."""

    def __init__(self) -> None:
        self._said_at: dict[str, float] = {}

    def is_due(self, subject: str) -> bool:
        """Whether to write a line about `subject` now."""
        now = time.monotonic()
        if now - self._said_at.get(subject, -SELDOM_S) < SELDOM_S:
            return False
        if len(self._said_at) >= _MAX_SUBJECTS:
            self._said_at.clear()
        self._said_at[subject] = now
        return True


def announce(workers: Sequence[Worker]) -> None:
    """Say once per start which workers the router begins with."""
    count = len(workers)
    log.info("Router started with %d worker%s%s", count, "" if count == 1 else "s", ":" if count else "")
    for worker in workers:
        log.info("  %s", worker.url)
