"""Who belongs to the fleet: config.yaml, read again whenever it changes."""

import logging
from pathlib import Path

from router.config import ConfigError, load
from router.settings import Settings

log = logging.getLogger(__name__)


class ConfigFile:
    """config.yaml as it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = self._stamp()

    def reread(self) -> Settings | None:
        """Return the settings where the file has changed since the last call; None where it has not, or is bad.

        A bad file is said once, and what was in force stays so.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        try:
            settings = load(self._path)
        except ConfigError as error:
            log.error("Configuration not taken over, the last good one stays in force: %s", error)  # noqa: TRY400
            return None
        log.info("Configuration %s read again: %d workers", self._path, len(settings.workers))
        return settings

    def _stamp(self) -> tuple[int, int, int] | None:
        # Follows links: Kubernetes changes a mounted ConfigMap by turning a link to another folder.
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns
