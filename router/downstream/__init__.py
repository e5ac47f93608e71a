"""The clients' side of HTTP: connections, their timeouts, and the processes that accept them.

May not import the scheduler, the API or the command line. `--http router.downstream:ClientConnection` is how uvicorn is
told of it; it is loaded at its first use, for gunicorn's master needs only what starts and ends processes.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from router.downstream.connection import ClientConnection

__all__ = ("ClientConnection",)


def __getattr__(name: str) -> "type[ClientConnection]":
    """Load the class that uvicorn asks for."""
    if name != "ClientConnection":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from router.downstream.connection import ClientConnection  # noqa: PLC0415  (lazy imports are this function's purpose)

    return ClientConnection
