"""Writes the answers of a batch's jobs, each as one whole line.

A large answer is held until its end has come, because half a line would spoil the others.
"""

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from router.aio import Turns
from router.config.settings import Settings
from router.http.answer import RETRY_AFTER_S, Answer, problem
from router.http.asgi import Send
from router.http.headers import read_worker_head
from router.http.ndjson import PIECE_BYTES, fits_a_line, in_one_line
from router.http.response import Body, Parts, UpstreamFailed
from router.jobs.answers import buffers_full
from router.jobs.body_budget import BodyBudget, BodyBudgetFull, BodyShare


class _TooLarge(Exception):
    """An answer is larger than a line may be."""


class AnswerLines:
    """The lines of one batch. `lost` is told of an answer that a job gets here in place of its worker's."""

    def __init__(
        self,
        send: Send,
        turns: Turns,
        buffers: BodyBudget,
        settings: Settings,
        lost: Callable[[int, Answer], Answer],
        client_left: asyncio.Event,
    ) -> None:
        self._send = send
        self._turns = turns
        self._buffers = buffers
        self._settings = settings
        self._max_bytes = int(settings.max_body_mb * 2**20)
        self._lost = lost
        self._client_left = client_left
        self._writing = asyncio.Lock()
        self._one_large = asyncio.Lock()

    async def write(self, index: int, answer: Answer) -> None:
        """Write the line of the job at this place in the batch."""
        if answer.rest is None:
            await self._write_whole(index, answer)
        else:
            async with self._one_large:
                await self._write_large(index, answer, answer.rest)

    async def _write_whole(self, index: int, answer: Answer, body: Body | None = None) -> None:
        """Write an answer's line; `body` is given for a large answer."""
        if read_worker_head(answer.status, answer.headers).is_packed:  # the worker compressed it unasked
            packed = problem(HTTPStatus.BAD_GATEWAY, "The worker's answer is compressed, which no line can hold", b"")
            answer = self._lost(index, packed)
            body = None
        body = answer.body if body is None else body
        fits = await self._turns.run(fits_a_line(body))
        again = b',"retry_after":%d' % RETRY_AFTER_S if answer.is_passing else b""
        line = b'{"index":%d,"status":%d%s,"body":' % (index, answer.status, again)
        async with self._writing:
            for piece in in_one_line(body, fits=fits):
                # `send` waits until the client has read most of the pieces before this one.
                if len(line) + len(piece) > PIECE_BYTES:
                    await self._send({"type": "http.response.body", "body": line, "more_body": True})
                    line = b""
                    await self._turns.next()  # a fast client would never make `send` wait
                line += piece
            await self._send({"type": "http.response.body", "body": line + b"}\n", "more_body": True})

    async def _write_large(self, index: int, answer: Answer, rest: Parts) -> None:
        """Write an answer that comes in parts, once it is whole: half a line would spoil the others."""
        with self._buffers.share() as share:
            body: Body | None = None
            try:
                body = await self._whole(answer.body, rest, share)
            except BodyBudgetFull:
                answer = self._lost(
                    index, buffers_full(self._settings.error_status.queue_full, self._buffers.max_bytes, b"")
                )
            except UpstreamFailed as failure:
                answer = problem(self._settings.error_status.all_failed, str(failure), b"")
            except _TooLarge:
                limit = f"The answer is larger than {self._settings.max_body_mb:g} MB: send its job by itself"
                answer = problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, limit, b"")
            finally:
                rest.close()
            await self._write_whole(index, answer, body)

    async def _whole(self, beginning: bytes, rest: Parts, share: BodyShare) -> bytearray:
        share.grow(len(beginning))
        held = bytearray(beginning)
        async for part in rest:
            if self._client_left.is_set():
                break
            if len(held) + len(part) > self._max_bytes:
                raise _TooLarge
            share.grow(len(part))
            held += part
        return held
