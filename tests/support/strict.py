"""Strict clients: they retry nothing, and count each request whose connection ended without an answer."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

REQUEST = b"POST /run_code HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 2\r\n\r\n{}"
_NOT_THERE = (ConnectionError, asyncio.IncompleteReadError)


@dataclass
class Counts:
    """The counts of a load's requests; `lost` has the error of each request that got no answer."""

    answered: int = 0
    refused: int = 0  # connections that were never made
    last: int = 0  # answers that said `connection: close`
    lost: list[str] = field(default_factory=list)


class Strict:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @property
    def has_ended(self) -> bool:
        """Whether this side knows that the other side closed the connection."""
        return self.reader.at_eof() or self.reader.exception() is not None

    async def ask(self) -> bool:
        """Send a job, read its answer, and return whether the connection stays open. Raises errors of _NOT_THERE."""
        self.writer.write(REQUEST)
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 200"), head
        length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        await self.reader.readexactly(length)
        return b"\r\nconnection: close\r\n" not in head

    def close(self) -> None:
        """Close the connection at once."""
        self.writer.transport.abort()


async def connected(port: int) -> Strict:
    """Return a new connection. Raises ConnectionError."""
    return Strict(*await asyncio.open_connection("127.0.0.1", port))


async def ask_again_and_again(port: int, counts: Counts, is_over: asyncio.Event, *, keeps: bool) -> None:
    """Send one job after another until `is_over`; with `keeps`, over as few connections as the router allows."""
    connection: Strict | None = None
    while not is_over.is_set():
        if connection is None or connection.has_ended:
            try:
                connection = await connected(port)
            except ConnectionError:
                counts.refused += 1
                await asyncio.sleep(0.01)
                continue
        try:
            stays = await connection.ask()
        except _NOT_THERE as error:
            counts.lost.append(repr(error))
            stays = False
        else:
            counts.answered += 1
            counts.last += not stays
        if not (stays and keeps):
            connection.close()
            connection = None
    if connection is not None:
        connection.close()


@asynccontextmanager
async def strict_load(port: int, at_once: int, *, keeps: bool) -> AsyncIterator[Counts]:
    """Keep `at_once` strict clients busy while the block runs."""
    counts, is_over = Counts(), asyncio.Event()
    async with asyncio.TaskGroup() as clients:
        for _ in range(at_once):
            clients.create_task(ask_again_and_again(port, counts, is_over, keeps=keeps))
        try:
            yield counts
        finally:
            is_over.set()


async def outcome(connection: Strict) -> str:
    """Send a job, close the connection, and return "answered" or the error."""
    try:
        await connection.ask()
    except _NOT_THERE as error:
        return repr(error)
    finally:
        with suppress(ConnectionError):
            connection.close()
    return "answered"
