"""What gunicorn runs in each router process: uvicorn, with the router's own protocol towards clients."""

from typing import ClassVar

from uvicorn_worker import UvicornWorker


class RouterWorker(UvicornWorker):  # type: ignore[misc]  # it comes without types
    """Serves by downstream.ClientConnection."""

    CONFIG_KWARGS: ClassVar[dict[str, str]] = {"http": "router.downstream:ClientConnection", "ws": "none"}
