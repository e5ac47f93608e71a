"""A batch's body, read job by job, and never further than there is room for.

NDJSON is read line by line and may have any length. A JSON list is read whole, like a single job's body, before its
first job begins. So a bad list is refused as a whole, and a client that sends everything before it reads anything
cannot block itself.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from http import HTTPStatus

from router.aio import Turns
from router.config.settings import Settings
from router.http.asgi import Message, Receive
from router.http.ndjson import BOM, Line, Lines, flaw, flaw_as_job, trimmed
from router.http.response import Body
from router.jobs.batch.hints import Hints, take_out
from router.jobs.batch.window import Window
from router.jobs.body_budget import BodyBudget, BodyBudgetFull, BodyShare
from router.policy.client_timeouts import MIN_BODY_BYTES_A_SECOND
from router.policy.large_json import Malformed, items
from router.policy.request_head import Refusal
from router.scheduling.pending import ClientLeft

STOPPED = "this router process is told to stop"

# A job's body and what its line says to the router, or why this line or item is no job.
Entry = tuple[Body, Hints] | Refusal


class BatchRefused(Exception):
    """No job of this batch can run."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.detail)
        self.refusal = refusal


class CutShort(Exception):
    """No more of this batch is read; the message says why."""


class BatchBody:
    """The body of one batch.

    Set `is_answered` when the answer begins. From then on this class times the client; before, the connection does.
    `is_list`: the body is held and counted as a whole.
    """

    def __init__(
        self,
        receive: Receive,
        in_flight: Window,
        buffers: BodyBudget,
        settings: Settings,
        turns: Turns,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.is_answered = False
        self.is_list = False
        self._receive = receive
        self._in_flight = in_flight
        self._buffers = buffers
        self._max_mb = settings.max_body_mb
        self._full_status = settings.error_status.queue_full
        # The client's time for the next line, and how much of it is left.
        self._timeout_s = self._left_s = settings.client_body_timeout
        self._turns = turns
        self._is_stopping = is_stopping
        self._is_more = True

    async def entries(self) -> AsyncGenerator[Entry]:
        """Yield the jobs. Raises BatchRefused and BodyBudgetFull before the first; ClientLeft and CutShort any time."""
        lines = Lines(self._max_mb * 2**20)
        part = await self._part()
        while BOM.startswith(part):  # the mark itself may come in parts
            if not (more := await self._part()):
                break
            part += more
        part = part.removeprefix(BOM)
        while not part.strip():
            lines.pass_over(part.count(b"\n"))
            if not (part := await self._part()):
                return
        if part.lstrip().startswith(b"["):
            self.is_list = True
            with self._buffers.share() as share:
                async for entry in self._of_list(part, share):
                    yield entry
        else:
            with self._in_flight.share() as share:
                async for entry in self._of_lines(lines, part, share):
                    yield entry

    async def _of_list(self, part: bytes, share: BodyShare) -> AsyncGenerator[Entry]:
        """Yield the items of a body that is one JSON list, once all of it has been checked."""
        text = await self._whole(part, share)
        try:
            for place in items(text):
                if place is None:
                    await self._turns.next()
                elif found := await self._turns.run(flaw(_slice(text, place))):
                    raise Malformed(found)
        except Malformed as error:
            wanted = f"expected a JSON list: {error}"
            raise BatchRefused(Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, wanted)) from error
        index = 0
        for place in items(text):
            if place is None:
                await self._turns.next()
                continue
            yield await self._job(_slice(text, place), f"Item {index}")
            index += 1

    async def _whole(self, part: bytes, share: BodyShare) -> bytearray:
        text = bytearray()
        while part:
            if len(text) + len(part) > self._max_mb * 2**20:
                limit = f"The list is larger than {self._max_mb:g} MB; one job a line (NDJSON) may be any number"
                raise BatchRefused(Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, limit))
            share.grow(len(part))
            text += part
            part = await self._part()
        return text

    async def _job(self, text: Body, place: str) -> Entry:
        """Return the job's body without its hints, and these; or why it is none."""
        found = await self._turns.run(flaw_as_job(text))
        if found is None:
            try:
                return await self._turns.run(take_out(text))
            except ValueError as error:
                found = str(error)
        return Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"{place}: {found}")

    async def _of_lines(self, lines: Lines, part: bytes, share: BodyShare) -> AsyncGenerator[Entry]:
        """Yield the jobs from `part` on; `share` counts the bytes of the line that is being read."""
        has_room = True
        while part:
            for line in lines.feed(part):
                share.give_back()
                if (entry := await self._of_line(line, has_room=has_room)) is not None:
                    yield entry
                else:
                    await asyncio.sleep(0)  # one part of a body may be a hundred thousand empty lines
                has_room = True
                self._left_s = self._timeout_s
            if has_room:
                has_room = await self._hold(lines, share)
            part = await self._part()
        for line in lines.end():
            share.give_back()
            if (entry := await self._of_line(line, has_room=has_room)) is not None:
                yield entry

    async def _hold(self, lines: Lines, share: BodyShare) -> bool:
        """Count the bytes of the line that is being read; return whether there is room for it."""
        try:
            await self._in_flight.grow(share, lines.held_bytes - share.held_bytes)  # fewer if the line is too long
        except BodyBudgetFull:
            share.give_back()
            lines.skip()
            return False
        return True

    async def _of_line(self, line: Line, *, has_room: bool) -> Entry | None:
        place = f"Line {line.number}"
        if line.text is not None:
            text = trimmed(line.text)
            return await self._job(text, place) if len(text) else None
        if has_room:
            return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"{place} is larger than {self._max_mb:g} MB")
        held = f"{self._buffers.max_bytes / 2**20:g} MB of request bodies are held already"
        return Refusal(self._full_status, f"{place}: {held}")

    async def _part(self) -> bytes:
        """Return the next part of the body, b"" at its end."""
        while self._is_more:
            message = await self._message()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            self._is_more = message.get("more_body", False)
            if self._is_stopping():
                raise CutShort(STOPPED)
            if part := message.get("body", b""):
                self._left_s = min(self._timeout_s, self._left_s + len(part) / MIN_BODY_BYTES_A_SECOND)
                return bytes(part)
        return b""

    async def _message(self) -> Message:
        """Return the next message. While jobs of the batch run, the client may wait for them and send nothing."""
        if not self.is_answered:
            return await self._receive()
        loop = asyncio.get_running_loop()
        since = loop.time()
        while True:
            try:
                async with asyncio.timeout_at(max(since, self._in_flight.quiet_since) + self._left_s):
                    message = await self._receive()
            except TimeoutError:
                if self._in_flight.is_busy:
                    since = loop.time()
                elif loop.time() >= max(since, self._in_flight.quiet_since) + self._left_s:
                    amount = "nothing" if self._left_s == self._timeout_s else "less than 100 kB a second"
                    raise CutShort(f"{amount} came for {self._timeout_s:g} s") from None
            else:
                if not self._in_flight.is_busy:
                    self._left_s -= loop.time() - max(since, self._in_flight.quiet_since)
                return message


def _slice(text: bytearray, place: tuple[int, int]) -> Body:
    """Return an item; a large one is not copied."""
    return trimmed(memoryview(text)[slice(*place)])
