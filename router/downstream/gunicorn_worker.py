"""gunicorn's worker class: it runs uvicorn with the router's own protocol for clients."""

import os
import signal
from types import FrameType
from typing import Any, ClassVar, NoReturn

from uvicorn_worker import UvicornWorker

# The signals that end a process. They are blocked from the fork until the process has its own handlers (master.py).
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


class RouterWorker(UvicornWorker):  # type: ignore[misc]  # it comes without types
    """A process that serves clients by downstream.ClientConnection."""

    CONFIG_KWARGS: ClassVar[dict[str, str]] = {"http": "router.downstream:ClientConnection", "ws": "none"}

    sockets: list[Any]
    # For the master: the process' place in ConnectionBalance, and whether it has been told to end.
    balance_place: int | None = None
    is_leaving = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._made_at = self.tmp.last_update()

    @property
    def serves(self) -> bool:
        """For the master: whether the process serves, which is when it first says that it is alive."""
        return bool(self.tmp.last_update() != self._made_at)

    def init_process(self) -> None:
        """Unwrap gunicorn's sockets: event loops need plain ones."""
        self.sockets = [wrapper.sock for wrapper in self.sockets]
        super().init_process()

    def init_signals(self) -> None:
        """End at once until uvicorn serves, which then installs its own handlers for the same signals."""
        super().init_signals()
        for each in ENDING:
            signal.signal(each, _end)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  (gunicorn's signature)
        """Treat SIGQUIT, which gunicorn sends on SIGINT, as SIGTERM: uvicorn's worker would ignore it."""
        signal.raise_signal(signal.SIGTERM)


def _end(*_: object) -> NoReturn:
    """Exit with status 0; gunicorn would report a death by signal as a fault.

    It exits at once: an exception raised here could be caught by a module that is being imported at that moment.
    """
    os._exit(0)
