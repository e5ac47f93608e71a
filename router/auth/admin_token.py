"""Reads the admin token: for routers, which require it, and for commands and agents, which send it."""

import os
from pathlib import Path

TOKEN_VARIABLE = "ADMIN_TOKEN"  # noqa: S105  (its name, not a token)
TOKEN_FILE_VARIABLE = "ADMIN_TOKEN_FILE"  # noqa: S105


class Unreadable(Exception):
    """A file cannot be read; the message names the setting, the file and the reason."""


def admin_token() -> str | None:
    """Return the token from ADMIN_TOKEN or the file in ADMIN_TOKEN_FILE; None if neither is set. Raises Unreadable."""
    if token := os.environ.get(TOKEN_VARIABLE):
        return token
    name = os.environ.get(TOKEN_FILE_VARIABLE)
    if not name:
        return None
    token = read(Path(name), TOKEN_FILE_VARIABLE).strip()
    if not token:
        raise Unreadable(f"{TOKEN_FILE_VARIABLE}: {name} is empty")
    return token


def read(path: Path, setting: str) -> str:
    """Return the text of the file that `setting` names. Raises Unreadable."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise Unreadable(f"{setting}: {path} cannot be read: {reason}") from error
