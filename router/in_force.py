"""What a router process starts with: the settings, the API keys and the admin token, read whole and found good.

gunicorn's master reads them and its processes inherit them by fork: a process that replaces a dead one starts with what
was last good, whatever has become of the files. Only a reload reads them again.
"""

from dataclasses import dataclass
from typing import Self

from router.access import Access
from router.config import config_path, expect_extras, load
from router.settings import Settings


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
