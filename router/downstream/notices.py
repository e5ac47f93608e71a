"""What gunicorn's master tells its processes of a reload, in memory that they share. The master asks no Redis."""

import mmap

_BYTES = 4096
_NUMBER_BYTES = 4


class Notices:
    """The last reload: "" if the new configuration is in force, else why it is not. Made before the first fork."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, _BYTES)
        self._seen = 0

    def begin(self) -> None:
        """Pass over what was told before this process began."""
        self._seen = self._number

    def put(self, flaw: str = "") -> None:
        """Tell the processes of a reload."""
        text = flaw.encode("utf-8", "replace")[: _BYTES - _NUMBER_BYTES].ljust(_BYTES - _NUMBER_BYTES, b"\0")
        self._memory[_NUMBER_BYTES:] = text
        self._memory[:_NUMBER_BYTES] = (self._number + 1).to_bytes(_NUMBER_BYTES)

    def take(self) -> str | None:
        """Return the last reload's flaw, if there was a reload since the last time."""
        number = self._number
        if number == self._seen:
            return None
        self._seen = number
        return self._memory[_NUMBER_BYTES:].rstrip(b"\0").decode("utf-8", "ignore")

    @property
    def _number(self) -> int:
        return int.from_bytes(self._memory[:_NUMBER_BYTES])


NOTICES = Notices()
