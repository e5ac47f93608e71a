"""uvicorn's protocol made cheaper for short connections: what not every connection needs is made at its first use."""

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

# The key in the application's state of the attributes that all its connections have in common.
_COMMON = "connections_in_common"
# The key of whether the process is to end.
_IS_ENDING = "process_is_ending"


class LightProtocol(HttpToolsProtocol):
    """One client's connection; a new one copies the attributes of the first instead of making its own."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        if (common := app_state.get(_COMMON)) is None:
            super().__init__(config, server_state, app_state, _loop)
            made_at_first_use = {key for key, of in vars(LightProtocol).items() if isinstance(of, cached_property)}
            common = app_state[_COMMON] = {key: of for key, of in vars(self).items() if key not in made_at_first_use}
            app_state[_IS_ENDING] = False
        self.__dict__ = common.copy()
        self.pipeline = deque()

    @cached_property
    def parser(self) -> httptools.HttpRequestParser:  # type: ignore[override]  # uvicorn makes one for each connection
        """The parser, for heads that are not known."""
        parser = httptools.HttpRequestParser(self)
        parser.set_dangerous_leniencies(
            lenient_data_after_close=True
        )  # as uvicorn does, to answer the requests before a bad one
        return parser

    @cached_property
    def client(self) -> tuple[str, int] | None:  # type: ignore[override]
        """The client's address."""
        return get_remote_addr(self.transport)

    @cached_property
    def server(self) -> tuple[str, int | None] | None:  # type: ignore[override]
        """The address that the client has connected to."""
        return get_local_addr(self.transport)

    @cached_property
    def scheme(self) -> str:  # type: ignore[override]
        """The scheme of the URLs that clients use here."""
        return "https" if is_ssl(self.transport) else "http"

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field without the blanks behind its value, which are no part of it (RFC 9112 §5.1)."""
        super().on_header(name, value.rstrip(b" \t"))

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Keep the transport, and join the open connections."""
        self.connections.add(self)
        self.transport = transport
        self.flow = FlowControl(transport)
        self.is_leaving = self.process_is_ending

    @property
    def process_is_ending(self) -> bool:
        """Whether the process is to end, as a call of `shutdown` of any connection has told."""
        is_ending: bool = self.app_state[_IS_ENDING]
        return is_ending

    def leave(self) -> None:
        """Take one more request, then close."""
        self.is_leaving = True

    def shutdown(self) -> None:
        """Note that the process is to end, also for connections that are made later."""
        self.app_state[_IS_ENDING] = True


class RequestRefused(Exception):
    """Raised in a callback of the parser: the request is refused."""

    def __init__(self, reason: Refusal) -> None:
        self.reason = reason


def reason_of(error: httptools.HttpParserError) -> Refusal:
    """Return why the parser stopped: a callback of ours refused the request, or the parser did."""
    if isinstance(error.__context__, RequestRefused):
        return error.__context__.reason
    if isinstance(error, httptools.HttpParserCallbackError):  # only parsing the target can fail else
        return malformed("invalid target")
    return malformed(str(error))
