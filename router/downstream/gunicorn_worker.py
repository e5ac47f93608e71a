"""What gunicorn runs in each router process: uvicorn, with the router's own protocol towards clients."""

import os
import signal
from types import FrameType
from typing import Any, ClassVar, NoReturn

from uvicorn_worker import UvicornWorker

# Told by these, a process ends. From the fork until a process has handlers of its own they wait (master.py).
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class RouterWorker(UvicornWorker):  # type: ignore[misc]  # it comes without types
    """Serves by downstream.ClientConnection."""

    CONFIG_KWARGS: ClassVar[dict[str, str]] = {"http": "router.downstream:ClientConnection", "ws": "none"}

    sockets: list[Any]
    # For the master: its place among those that share the clients, and whether it has been told to end.
    place_in_crowd: int | None = None
    is_leaving = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._made_at = self.tmp.last_update()

    @property
    def serves(self) -> bool:
        """For the master: whether the process has ever said that it is alive; it does so first when it serves."""
        return bool(self.tmp.last_update() != self._made_at)

    def init_process(self) -> None:
        """Serve on plain sockets, as event loops know them; gunicorn's wrap these."""
        self.sockets = [wrapper.sock for wrapper in self.sockets]
        super().init_process()

    def init_signals(self) -> None:
        """End at once where nothing is served yet; uvicorn takes over from there, and ends by the same handlers."""
        super().init_signals()
        for each in ENDING:
            signal.signal(each, _end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  (gunicorn's signature)
        """Take SIGQUIT, by which gunicorn passes SIGINT on, as SIGTERM: else it sets a flag that nobody reads."""
        signal.raise_signal(signal.SIGTERM)


def _end(*_: object) -> NoReturn:
    """End as a process that has nothing left to do; and not by the signal, which gunicorn would report as a fault.

    At once: an exception could be lost in what is being imported at that moment, and the signal with it.
    """
    os._exit(0)
