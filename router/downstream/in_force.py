"""What a router process starts with: the settings, the API keys and the admin token, read whole and found good.

A process that replaces a dead one starts with what was last good, whatever has become of the files. gunicorn's inherit
it from their master, by fork; only a reload reads the files again. uvicorn's take it from one another, where the files
are bad.
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

log = logging.getLogger(__name__)

NOT_TAKEN_OVER = "Configuration not taken over, the last good one stays in force: %s"
# The memory, named so, in which one of uvicorn's processes has what it started with: its siblings find it in /proc.
_SHELF = "sfr-in-force"


@dataclass(frozen=True, slots=True)
class InForce:
    """All that is read from files, but for the workers_file: who cannot read that one asks Redis for the workers."""

    settings: Settings
    access: Access

    @classmethod
    def read(cls) -> Self:
        """Read what the environment names. Raises ConfigError."""
        settings = load(config_path())
        expect_extras(settings)
        return cls(settings, Access.load(settings))


class Inherited:
    """What the processes that are forked from this one start with; None in a process that nobody has read for."""

    def __init__(self) -> None:
        self.now: InForce | None = None


INHERITED = Inherited()


def begin() -> InForce:
    """Return what this process is to start with. Raises ConfigError."""
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
        in_force = found
    with os.fdopen(os.dup(os.memfd_create(_SHELF)), "wb") as shelf:  # the first one stays open as long as the process
        pickle.dump(in_force, shelf)
    return in_force


def _of_a_sibling() -> InForce | None:
    """Return what another process of the same uvicorn has started with; None where there is no other."""
    parent = os.getppid()
    for sibling in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with suppress(OSError):  # it has ended by now
            for file in Path(f"/proc/{sibling}/fd").iterdir():
                if str(file.readlink()).startswith(f"/memfd:{_SHELF} "):
                    found: InForce = pickle.loads(file.read_bytes())  # noqa: S301  (this user's own, of the same parent)
                    return found
    return None
