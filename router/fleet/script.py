"""A Lua script that every job waits for: asked with callbacks, not coroutines, over a connection of its own.

redis-py's client (pool, retries, metrics) and its connection (a stream, locks, time limits) take many times the CPU of
this one for each call. docs/speed.md has the figures of a job.

A script may come with the library of functions that is made of it. A server that has the library runs it: its functions
are made once, and not in each call. A server that takes no library, or forbids it, runs the script. So does a Cluster.
"""

import asyncio
import hashlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypeVar

import hiredis
import msgspec
from redis.asyncio import Redis
from redis.asyncio.connection import Connection
from redis.client import NEVER_DECODE
from redis.exceptions import NoScriptError, ResponseError

from router.aio import start
from router.fleet.connection import AnyRedis

# Before a call counts as unanswered, the socket is read once more: a process that got no CPU for a while finds that its
# timer has run out and that the answer is in its socket, both at once.
LAST_LOOK_S = 0.01

# How a server answers a call of a function that it does not have, or that it cannot have.
_WITHOUT_LIBRARY = ("Function not found", "ERR Function not found", "ERR unknown command", "NOPERM")

_Value = TypeVar("_Value")
_Word = str | bytes | float
_Then = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Library:
    """A library of one function, as Redis loads it. It and its function have one name, which tells its text."""

    name: str
    text: str


class Script(Protocol):
    """A script of one key. Its first argument differs from call to call; the others are constant."""

    def ask(self, arg: bytes, then: _Then) -> None:
        """Call it. `then` is called once, with the reply or an exception, and never before this has returned."""


def script(
    client: AnyRedis,
    text: str,
    timeout_s: float,
    key: str,
    constants: tuple[_Word, ...],
    library: Library | None = None,
) -> Script:
    """Return the script; a call that is not answered within `timeout_s` seconds ends in a TimeoutError."""
    if isinstance(client, Redis):
        return ServerScript(client, text, timeout_s, key, constants, library)
    return ClusterScript(client, text, timeout_s, key, constants)


async def within(timeout_s: float, call: Awaitable[_Value]) -> _Value:
    """Return what `call` returns within `timeout_s` seconds, also in a task that ends. Raises TimeoutError."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    cancelled_before = 0 if task is None else task.cancelling()
    async with asyncio.timeout(None) as limit:
        last_look = loop.call_later(timeout_s - LAST_LOOK_S, lambda: limit.reschedule(loop.time() + LAST_LOOK_S))
        try:
            return await call
        finally:
            last_look.cancel()
            # While redis-py connects it may swallow a cancellation. The caller would then go on for ever.
            if task is not None and task.cancelling() > cancelled_before:
                raise asyncio.CancelledError


class ClusterScript:
    """A script in a Cluster, over redis-py's client, which finds the node of its key."""

    def __init__(self, client: AnyRedis, text: str, timeout_s: float, key: str, constants: tuple[_Word, ...]) -> None:
        self._client = client
        self._text = text
        self._sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self._timeout_s = timeout_s
        self._key = key
        self._constants = constants
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, arg: bytes, then: _Then) -> None:
        """Call it, in a task."""
        start(self._asking, self._ask(arg, then))

    async def _ask(self, arg: bytes, then: _Then) -> None:
        try:
            reply = await within(self._timeout_s, self._run(arg))
        except Exception as error:  # noqa: BLE001  (else the caller would wait for ever)
            reply = error
        then(reply)

    async def _run(self, arg: bytes) -> Any:
        words, as_bytes = (1, self._key, arg, *self._constants), {NEVER_DECODE: True}
        client: Any = self._client
        try:
            return await client.execute_command("EVALSHA", self._sha, *words, **as_bytes)
        except NoScriptError:
            return await client.execute_command("EVAL", self._text, *words, **as_bytes)


class Packed:
    """A command with one word left out; the others are packed only once."""

    def __init__(self, before: tuple[_Word, ...], after: tuple[_Word, ...]) -> None:
        self._before = b"*%d\r\n%s" % (len(before) + 1 + len(after), _packed(before))
        self._after = _packed(after)

    def with_arg(self, arg: bytes) -> bytes:
        r"""Return the whole command as bytes for Redis.

        >>> Packed(("EVAL", "x"), (1,)).with_arg(b"{}")
        b'*4\r\n$4\r\nEVAL\r\n$1\r\nx\r\n$2\r\n{}\r\n$1\r\n1\r\n'
        """
        return b"%s$%d\r\n%s\r\n%s" % (self._before, len(arg), arg, self._after)


def _packed(words: tuple[_Word, ...]) -> bytes:
    """Return the words without the number of them that begins a command."""
    packed: bytes = hiredis.pack_command(words)  # type: ignore[arg-type]  # its stub knows tuples of one
    return packed.partition(b"\r\n")[2]


class ServerScript:
    """A script on one server. Its connection is opened by the first call, and again by the first one after it closed.

    Several calls may be under way: their replies arrive in the calls' order.
    """

    def __init__(
        self,
        client: Redis,
        text: str,
        timeout_s: float,
        key: str,
        constants: tuple[_Word, ...],
        library: Library | None = None,
    ) -> None:
        self._pool = client.connection_pool
        self._timeout_s = timeout_s
        self._commands = _Commands(text, key, constants, library)
        self._connection: _CallConnection | None = None
        self._opening = asyncio.Lock()
        self._asking: set[asyncio.Task[None]] = set()

    def ask(self, arg: bytes, then: _Then) -> None:
        """Call it: at once if the connection is open."""
        call = _Call(arg, then, self._loop.time() + self._timeout_s)
        if self._connection is not None and self._connection.is_open:
            self._connection.ask(call)
        else:
            start(self._asking, self._ask_when_open(call))

    @cached_property
    def _loop(self) -> asyncio.AbstractEventLoop:
        # Asked for once: Python 3.11 makes a system call each time.
        return asyncio.get_running_loop()

    async def _ask_when_open(self, call: "_Call") -> None:
        try:
            async with asyncio.timeout_at(call.ends_at), self._opening:
                connection = await self._open()
        except Exception as error:  # noqa: BLE001  (else the caller would wait for ever)
            call.then(error)
        else:
            connection.ask(call)

    async def _open(self) -> "_CallConnection":
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_open:
            await connection.opened.disconnect(nowait=True)
            await self._pool.release(connection.opened)
            connection = None
        if connection is None:
            opened = await self._pool.get_connection()  # type: ignore[no-untyped-call]
            try:
                connection = _CallConnection(opened, self._commands)
            except BaseException:
                await self._pool.release(opened)
                raise
        self._connection = connection
        return connection


class _Commands:
    """The ways to call a script: by its library, which `load` brings; by its hash; and by its text."""

    def __init__(self, text: str, key: str, constants: tuple[_Word, ...], library: Library | None) -> None:
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.by_name = Packed(("EVALSHA", sha, 1, key), constants)
        self.by_text = Packed(("EVAL", text, 1, key), constants)
        self.by_library = Packed(("FCALL", library.name, 1, key), constants) if library else None
        self.load = b"*3\r\n%s" % _packed(("FUNCTION", "LOAD", library.text)) if library else b""


class _Call(msgspec.Struct, frozen=True):
    """A call under way, to be answered by the moment `ends_at` of the event loop's clock.

    `has_loaded`: the library has been sent for it. With `is_load` it is that sending, whose reply tells nothing.
    """

    arg: bytes
    then: _Then
    ends_at: float
    has_loaded: bool = False
    is_load: bool = False


class _CallConnection(asyncio.Protocol):
    """A connection that redis-py has opened and this has taken over."""

    def __init__(self, opened: Connection, commands: _Commands) -> None:
        writer = opened._writer  # noqa: SLF001  (there is no other way to it)
        if writer is None:
            raise ConnectionError("closed as soon as it was opened")
        self.opened = opened
        self.is_open = True
        self._commands = commands
        self._usual = commands.by_library or commands.by_name
        self._transport = writer.transport
        self._before = self._transport.get_protocol()
        self._replies = hiredis.Reader(replyError=ResponseError)
        self._loop = asyncio.get_running_loop()
        self._calls: deque[_Call] = deque()  # without a reply yet
        # One timer for all calls, which looks at the oldest: a timer for each call would cost much of a call's time.
        self._timer: asyncio.TimerHandle | None = None
        self._transport.set_protocol(self)

    def ask(self, call: _Call) -> None:
        """Send the call."""
        self._send(call, self._usual)
        if self._timer is None:
            self._look()

    def data_received(self, data: bytes) -> None:
        """Take replies, or parts of replies."""
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not False and self._calls:
            if isinstance(reply, hiredis.PushNotification):  # a managed server may announce its maintenance
                continue
            call = self._calls.popleft()
            if call.is_load:
                continue
            if not isinstance(reply, ResponseError):
                call.then(reply)
            elif str(reply).startswith("NOSCRIPT"):
                self._send(call, self._commands.by_text)
            elif str(reply).startswith(_WITHOUT_LIBRARY) and self._usual is self._commands.by_library:
                self._send_library(call)
            else:  # perhaps a master that has become a replica: another connection may reach the new master
                call.then(reply)
                self._end(ConnectionError(f"after another call's failure: {reply}"))

    def connection_lost(self, error: Exception | None) -> None:
        """End all calls, and tell redis-py."""
        self._end(ConnectionError(str(error or "Redis closed the connection")))
        self._before.connection_lost(error)

    def _send_library(self, call: _Call) -> None:
        """Send the library, and call it once more; if that was in vain, go on with the script."""
        if call.has_loaded:
            self._usual = self._commands.by_name
        else:
            self._calls.append(msgspec.structs.replace(call, is_load=True))
            self._transport.write(self._commands.load)
        self._send(msgspec.structs.replace(call, has_loaded=True), self._usual)

    def _send(self, call: _Call, command: Packed) -> None:
        self._calls.append(call)
        self._transport.write(command.with_arg(call.arg))

    def _look(self, last: _Call | None = None) -> None:
        """Close the connection if a reply is late: it could be taken for the reply to a later call.

        `last` is the oldest call when this last looked, just before its time was up.
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
