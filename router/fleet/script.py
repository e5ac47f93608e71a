"""A Lua script that every job waits for: asked by calls, not coroutines, over a connection that is kept for it.

What redis-py's client does around each call (pool, retries, metrics) costs 80 µs of CPU, its connection (a stream, its
locks and time limits) 35, this 6.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import hiredis
import msgspec
from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.exceptions import ResponseError

from router.aio import start
from router.fleet.connection import AnyRedis

# Before a call counts as unanswered, what has arrived is read once more: a process that got no CPU for a while finds
# its timers run out and the answer in its socket, at the same moment.
LAST_LOOK_S = 0.01

_Value = TypeVar("_Value")
_Word = str | bytes | float
_Then = Callable[[Any], None]


class Script(Protocol):
    """A script of one key, whose arguments are the same each time but for the first."""

    def ask(self, arg: bytes, then: _Then) -> None:
        """Call it. `then` is called once, and never before this has returned: with the reply, or with an exception."""


def script(client: AnyRedis, text: str, timeout_s: float, key: str, constants: tuple[_Word, ...]) -> Script:
    """Return the script; each call of it is answered within `timeout_s` seconds or ends in a TimeoutError."""
    if isinstance(client, Redis):
        return LineScript(client, text, timeout_s, key, constants)
    return ClusterScript(client, text, timeout_s, key, constants)


async def within(timeout_s: float, call: Awaitable[_Value]) -> _Value:
    """Return what `call` brings. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(None) as limit:
        last_look = loop.call_later(timeout_s - LAST_LOOK_S, lambda: limit.reschedule(loop.time() + LAST_LOOK_S))
        try:
            return await call
        finally:
            last_look.cancel()


class ClusterScript:
    """A script in a Cluster: redis-py finds the node of its key."""

    def __init__(self, client: AnyRedis, text: str, timeout_s: float, key: str, constants: tuple[_Word, ...]) -> None:
        self._script = client.register_script(text)
        self._timeout_s = timeout_s
        self._key = key
        self._constants = constants
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, arg: bytes, then: _Then) -> None:
        """Call it, in a task."""
        start(self._asking, self._ask(arg, then))

    async def _ask(self, arg: bytes, then: _Then) -> None:
        try:
            reply = await within(self._timeout_s, self._script(keys=[self._key], args=[arg, *self._constants]))
        except Exception as error:  # noqa: BLE001  (else who asked would wait for ever)
            reply = error
        then(reply)


class Packed:
    """A command with one word left out: packing all the others each time costs 4 µs."""

    def __init__(self, before: tuple[_Word, ...], after: tuple[_Word, ...]) -> None:
        self._before = b"*%d\r\n%s" % (len(before) + 1 + len(after), _packed(before))
        self._after = _packed(after)

    def with_arg(self, arg: bytes) -> bytes:
        r"""Return the command as Redis reads it.

        >>> Packed(("EVAL", "x"), (1,)).with_arg(b"{}")
        b'*4\r\n$4\r\nEVAL\r\n$1\r\nx\r\n$2\r\n{}\r\n$1\r\n1\r\n'
        """
        return b"%s$%d\r\n%s\r\n%s" % (self._before, len(arg), arg, self._after)


def _packed(words: tuple[_Word, ...]) -> bytes:
    """Return the words without the number of them that begins a command."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub knows tuples of one
    return packed.partition(b"\r\n")[2]


class LineScript:
    """A script on one server, over a line that is opened by the first call, and anew by the first after it has closed.

    CallBatcher share it: their replies come in their order.
    """

    def __init__(self, client: Redis, text: str, timeout_s: float, key: str, constants: tuple[_Word, ...]) -> None:
        self._pool = client.connection_pool
        self._timeout_s = timeout_s
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._by_name = Packed(("EVALSHA", sha, 1, key), constants)
        self._by_text = Packed(("EVAL", text, 1, key), constants)
        self._line: _Line | None = None
        self._opening = asyncio.Lock()
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, arg: bytes, then: _Then) -> None:
        """Call it, at once where the line is open."""
        call = _Call(arg, then, asyncio.get_running_loop().time() + self._timeout_s)
        if self._line is not None and self._line.is_open:
            self._line.ask(call)
        else:
            start(self._asking, self._ask_when_open(call))

    async def _ask_when_open(self, call: "_Call") -> None:
        try:
            async with asyncio.timeout_at(call.ends_at), self._opening:
                line = await self._open()
        except Exception as error:  # noqa: BLE001  (else who asked would wait for ever)
            call.then(error)
        else:
            line.ask(call)

    async def _open(self) -> "_Line":
        line, self._line = self._line, None
        if line is not None and not line.is_open:
            await line.connection.disconnect(nowait=True)
            await self._pool.release(line.connection)
            line = None
        if line is None:
            connection = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            try:
                line = _Line(connection, self._by_name, self._by_text)
            except BaseException:
                await self._pool.release(connection)
                raise
        self._line = line
        return line


class _Call(msgspec.Struct, frozen=True):
    """A call under way: to be answered by `ends_at`, by the loop's clock."""

    arg: bytes
    then: _Then
    ends_at: float


class _Line(asyncio.Protocol):
    """A connection that redis-py has opened, taken over."""

    def __init__(self, connection: Connection, by_name: Packed, by_text: Packed) -> None:
        writer = connection._writer  # noqa: SLF001  (there is no other way to it)
        if writer is None:
            raise ConnectionError("closed as soon as it was opened")
        self.connection = connection
        self.is_open = True
        self._by_name = by_name
        self._by_text = by_text
        self._transport = writer.transport
        self._before = self._transport.get_protocol()
        self._replies = hiredis.Reader(replyError=ResponseError)
        self._loop = asyncio.get_running_loop()
        self._calls: deque[_Call] = deque()  # without a reply yet
        # One for many calls: it looks at the oldest. To make one for each and take it back costs 1.5 µs.
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    def ask(self, call: _Call) -> None:
        """Send it."""
        self._send(call, self._by_name)
        if self._timer is None:
            self._look()

    def data_received(self, data: bytes) -> None:
        """Take replies, or parts of them."""
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not False and self._calls:
            if isinstance(reply, hiredis.PushNotification):  # of what goes on at a server that is kept by others
                continue
            call = self._calls.popleft()
            if not isinstance(reply, ResponseError):
                call.then(reply)
            elif str(reply).startswith("NOSCRIPT"):
                self._send(call, self._by_text)
            else:  # it may be the server's state, as of a master that has become a replica: the next line may do better
                call.then(reply)
                self._end(ConnectionError(f"after another call's failure: {reply}"))

    def connection_lost(self, error: Exception | None) -> None:
        """Tell all who wait, redis-py included."""
        self._end(ConnectionError(str(error or "Redis closed the connection")))
        self._before.connection_lost(error)

    def _send(self, call: _Call, command: Packed) -> None:
        self._calls.append(call)
        self._transport.write(command.with_arg(call.arg))

    def _look(self, last: _Call | None = None) -> None:
        """Close the line where a reply is late: it may still come, and nobody would know whose it is.

        `last` is the call that was looked for a moment ago, when its time was nearly up.
        """
        self._timer = None
        if not self._calls:
            return
        oldest = self._calls[0]
        if oldest is last:
            self._end(TimeoutError())
        elif self._loop.time() < (look_at := oldest.ends_at - LAST_LOOK_S):
            self._timer = self._loop.call_at(look_at, self._look)
        else:
            self._timer = self._loop.call_later(LAST_LOOK_S, self._look, oldest)

    def _end(self, error: Exception) -> None:
        self.is_open = False
        self._transport.abort()
        if self._timer is not None:
            self._timer.cancel()
        calls, self._calls = self._calls, deque()
        for call in calls:
            call.then(error)
