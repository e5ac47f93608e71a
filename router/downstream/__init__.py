"""The clients' side of HTTP: it accepts connections, limits their time, and starts and ends the processes that do so.

It may not import app, api, cli or scheduling. uvicorn loads `router.downstream:ClientConnection` by that name
(`--http`). The class is imported at its first use, because gunicorn's master needs only the modules that start and end
processes.
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
