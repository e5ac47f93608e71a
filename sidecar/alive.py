"""Shows a supervisor that the sidecar goes on: a file that is touched in each round. A sidecar answers no requests."""

import logging
import os
from pathlib import Path

log = logging.getLogger(__name__)

FILE_VARIABLE = "SIDECAR_ALIVE_FILE"


class Alive:
    """Touches `file`, if there is one. A file that cannot be touched is logged once, and stops nothing."""

    def __init__(self, file: Path | None) -> None:
        self._file = file

    @classmethod
    def from_environment(cls) -> "Alive":
        """Return one for the file that SIDECAR_ALIVE_FILE names, if it is set."""
        named = os.environ.get(FILE_VARIABLE)
        return cls(Path(named) if named else None)

    def tell(self) -> None:
        """Set the file's time to now."""
        if self._file is None:
            return
        try:
            self._file.touch()
        except OSError as error:
            log.warning("%s=%s cannot be touched: %s", FILE_VARIABLE, self._file, error.strerror)
            self._file = None
