"""Reads a small file of text that a setting names: configuration, a secret, a list of workers.

It imports nothing but the standard library, because commands that need no settings read the admin token with it.
"""

from pathlib import Path


class Unreadable(Exception):
    """A file cannot be used. The message names the setting and the file, gives the reason and repeats no content."""


def read_text(path: Path, setting: str = "") -> str:
    """Return the text of a UTF-8 file, without its byte order mark.

    `setting` is the key or variable that names the file; error messages begin with it. Raises Unreadable.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        named = f"{setting}: {path}" if setting else str(path)
        raise Unreadable(f"{named} cannot be read: {reason}") from error
