"""The log of every program of this project: on stdout, one line an event, as text or as JSON.

The router, the sidecar, gunicorn and uvicorn share it, so that all lines look alike. Times carry their zone, because
the hosts may be in different ones.
"""

import logging.config
import os
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

log = logging.getLogger(__name__)

# A state that lasts is logged once in this time.
SELDOM_S = 60.0
_MAX_SUBJECTS = 10_000
LOG_FORMAT_VARIABLE = "LOG_FORMAT"


class TextLine(logging.Formatter):
    """Formats a record as a line of text. It begins with the local time in ISO 8601, with its offset from UTC."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802  (logging's)
        """Return the time of `record`."""
        return local_time(record.created)


_TEXT = {"()": TextLine, "fmt": "%(asctime)s %(levelname)s %(message)s"}
_JSON = {
    "()": "pythonjsonlogger.json.JsonFormatter",
    "fmt": "%(levelname)s %(name)s %(message)s",
    "rename_fields": {"levelname": "level", "name": "logger"},
    "timestamp": "time",
}


def local_time(unix_s: float) -> str:
    """Return a moment in this host's zone, in ISO 8601 with its offset: `2026-11-28T18:05:02.125+01:00`."""
    return datetime.fromtimestamp(unix_s).astimezone().isoformat(timespec="milliseconds")


def log_config() -> dict[str, Any]:
    """Return a `logging.config.dictConfig` for this process; LOG_FORMAT=json asks for JSON lines."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": _JSON if os.environ.get(LOG_FORMAT_VARIABLE) == "json" else _TEXT},
        "handlers": {"stdout": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stdout"}},
        "root": {"level": "INFO", "handlers": ["stdout"]},
        "loggers": {
            # Under gunicorn, uvicorn logs to this logger's own handlers.
            "gunicorn.error": {"level": "INFO", "handlers": ["stdout"], "propagate": False},
            # No access log: a line would cost more than routing the request. The header x-router-worker and the metrics
            # give the same facts.
            "gunicorn.access": {"level": "CRITICAL", "handlers": [], "propagate": False},
        },
    }


def set_up() -> None:
    """Send this process' log to stdout, in the form of `log_config`."""
    logging.config.dictConfig(log_config())


def expect_cut_answers() -> None:
    """Keep uvicorn from logging an unfinished answer as a defect: we have logged which worker broke it off."""
    logging.getLogger("uvicorn.error").addFilter(_is_no_cut_answer)


def _is_no_cut_answer(record: logging.LogRecord) -> bool:
    return record.msg != "ASGI callable returned without completing response."


async def fault_of(run: Callable[[], Awaitable[None]], before: str, log: logging.Logger, message: str) -> str:
    """Run a part of a program that must go on, and return the fault that ended it; "" if it returned.

    The fault is logged under `message`, unless it is the one `before`.
    """
    fault = ""
    try:
        await run()
    except Exception as error:  # whatever the fault is
        if before != (fault := repr(error)):
            log.exception(message)
    return fault


class Seldom:
    """Limits lines that each job would write: one for each subject in SELDOM_S seconds."""

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
