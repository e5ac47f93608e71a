"""A TCP link that can be made slow: it delays data in one direction."""

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class SlowLink:
    """Listens on a free port and forwards to `port`; data of clients is delayed by `delay_s`."""

    def __init__(self, port: int) -> None:
        self.delay_s = 0.0
        self.port = 0
        self._to = port
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers |= {writer, there_writer}
        await asyncio.gather(self._pass_on(reader, there_writer, is_slow=True), self._pass_on(there_reader, writer))
        self._writers -= {writer, there_writer}

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_slow: bool = False
    ) -> None:
        with suppress(ConnectionError, asyncio.CancelledError):  # the test may end while data is on its way
            while part := await reader.read(65_536):
                if is_slow:
                    await asyncio.sleep(self.delay_s)
                writer.write(part)
        writer.close()
