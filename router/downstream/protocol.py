"""uvicorn's protocol, for connections that carry one request each: what not every one needs is found out when it is."""

import asyncio
from collections import deque
from functools import cached_property
from typing import Any

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.utils import get_local_addr, get_remote_addr, is_ssl
from uvicorn.server import ServerState

from router.policy.request_head import Refusal, malformed

# The application's state holds under this name what all its connections have in common.
_COMMON = "connections_in_common"
# And under this one, whether the process is to end.
_IS_ENDING = "process_is_ending"


class LightProtocol(HttpToolsProtocol):
    """One client's connection. A new one takes 20 µs less."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if (common := app_state.get(_COMMON)) is None:
            super().__init__(config, server_state, app_state, _loop)
            found_when_asked = {key for key, of in vars(LightProtocol).items() if isinstance(of, cached_property)}
            common = app_state[_COMMON] = {key: of for key, of in vars(self).items() if key not in found_when_asked}
            app_state[_IS_ENDING] = False
        self.__dict__ = common.copy()
        self.pipeline = deque()

    @cached_property
    def parser(self) -> httptools.HttpRequestParser:  # type: ignore[override]  # uvicorn makes one for each connection
        """What reads a head that is not known."""
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does: it answers what came before
        return parser

    @cached_property
    def client(self) -> tuple[str, int] | None:  # type: ignore[override]
        """The other end's address."""
        return get_remote_addr(self.transport)

    @cached_property
    def server(self) -> tuple[str, int | None] | None:  # type: ignore[override]
        """This end's."""
        return get_local_addr(self.transport)

    @cached_property
    def scheme(self) -> str:  # type: ignore[override]
        """Of the URLs by which clients come here."""
        return "https" if is_ssl(self.transport) else "http"

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection."""
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.is_leaving = self.process_is_ending

    @property
    def process_is_ending(self) -> bool:
        """Whether any connection has heard that the process is to end."""
        is_ending: bool = self.app_state[_IS_ENDING]
        return is_ending

    def leave(self) -> None:
        """Take one more request, and close."""
        self.is_leaving = True

    def shutdown(self) -> None:
        """Hear that the process is to end; connections that are made later will find it in the state."""
        self.app_state[_IS_ENDING] = True


class RequestRefused(Exception):
    """Raised in a parser's callback: the request is not served."""

    def __init__(self, reason: Refusal) -> None:
        self.reason = reason


def reason_of(error: httptools.HttpParserError) -> Refusal:
    """Return why the parser went no further: by a callback of ours, or by itself."""
    if isinstance(error.__context__, RequestRefused):
        return error.__context__.reason
    if isinstance(error, httptools.HttpParserCallbackError):  # what else a head's end does is to parse the target
        return malformed("invalid target")
    return malformed(str(error))
