"""The configuration in force: the settings, API keys and admin token with which a router process starts.

A process that replaces a dead one starts with the last good configuration, whatever the files contain by then. Under
gunicorn, processes inherit it from the master by fork, and only a reload reads the files again. Under
`uvicorn --workers`, a process reads the files, and takes the configuration of a sibling process if they are bad.
"""

import logging
import os
import pickle
import sys
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import parent_process
from pathlib import Path
from typing import Self

from router.auth.access import Access
from router.config.load import ConfigError, config_path, expect_extras, load
from router.config.settings import Settings
from router.downstream.notices import NOTICES
from router.fleet.connection import expect_usable

log = logging.getLogger(__name__)

NOT_TAKEN_OVER = "Configuration not taken over, the last good one stays in force: %s"
# The name of the memory file in which a process keeps its configuration; its siblings find it in /proc.
_SHELF = "sfr-in-force"


@dataclass(frozen=True, slots=True)
class InForce:
    """All that is read from files but the workers_file: without that one, a process gets the workers from Redis."""

    settings: Settings
    access: Access

    @classmethod
    def read(cls) -> Self:
        """Read the files that the environment names. Raises ConfigError."""
        settings = load(config_path())
        expect_extras(settings)
        expect_usable(settings.redis)
        return cls(settings, Access.load(settings))


class Inherited:
    """The configuration that forked processes inherit; `now` is None in a process without such a parent."""

    def __init__(self) -> None:
        self.now: InForce | None = None


INHERITED = Inherited()


def begin() -> InForce:
    """Return the configuration with which this process starts. Raises ConfigError."""
    NOTICES.begin()
    if INHERITED.now is not None:
        return INHERITED.now
    if parent_process() is None or sys.platform != "linux":
        return InForce.read()
    try:
        in_force = InForce.read()
    except ConfigError as error:
        found = _of_a_sibling()
        if found is None:
            raise
        log.error(NOT_TAKEN_OVER, error)  # noqa: TRY400
        NOTICES.put(str(error))
        in_force = found
    with os.fdopen(os.dup(os.memfd_create(_SHELF)), "wb") as shelf:  # the original stays open until the process ends
        pickle.dump(in_force, shelf)
    return in_force


def _of_a_sibling() -> InForce | None:
    """Return the configuration of another process of the same uvicorn; None if there is no other."""
    parent = os.getppid()
    for sibling in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with suppress(OSError):  # the sibling has ended
            for file in Path(f"/proc/{sibling}/fd").iterdir():
                if str(file.readlink()).startswith(f"/memfd:{_SHELF} "):
                    found: InForce = pickle.loads(file.read_bytes())  # noqa: S301  (a sibling's, of the same user)
                    return found
    return None
