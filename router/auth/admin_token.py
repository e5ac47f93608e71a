"""Reads the admin token: for routers, which require it, and for commands and agents, which send it."""

import os
from pathlib import Path

from router.config.text_file import Unreadable, read_text

TOKEN_VARIABLE = "ADMIN_TOKEN"  # noqa: S105  (its name, not a token)
TOKEN_FILE_VARIABLE = "ADMIN_TOKEN_FILE"  # noqa: S105


def admin_token() -> str | None:
    """Return the token from ADMIN_TOKEN or the file in ADMIN_TOKEN_FILE; None if neither is set. Raises Unreadable."""
    if token := os.environ.get(TOKEN_VARIABLE):
        return token
    name = os.environ.get(TOKEN_FILE_VARIABLE)
    if not name:
        return None
    token = read_text(Path(name), TOKEN_FILE_VARIABLE).strip()
    if not token:
        raise Unreadable(f"{TOKEN_FILE_VARIABLE}: {name} is empty")
    return token
