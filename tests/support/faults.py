"""Each way in which a worker can fail a job, as a script for a scripted worker."""

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from itertools import count

from tests.support.worker import Exchange, Script, always, hang

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


async def echo(exchange: Exchange) -> None:
    """Answer well, with the job's own code as its output, so that an answer shows its job."""
    await asyncio.sleep(0.002)
    code = json.loads(exchange.request.body)["code"]
    result = {"status": "Finished", "return_code": 0, "stdout": code}
    await exchange.answer(200, {"status": "Success", "message": "", "run_result": result})


async def reset_at_once(exchange: Exchange) -> None:
    """Reset the connection when the job has arrived."""
    exchange.reset()


async def close_at_once(exchange: Exchange) -> None:
    """Close the connection when the job has arrived."""
    exchange.close()


async def reset_in_mid_answer(exchange: Exchange) -> None:
    """Reset the connection in the middle of the body."""
    await exchange.raw(_HEAD + b'content-length: 1000\r\n\r\n{"status": "Success"')
    exchange.reset()


async def reset_after(exchange: Exchange) -> None:
    """Answer well, then reset the connection."""
    await echo(exchange)
    await asyncio.sleep(0.001)
    exchange.reset()


async def close_after(exchange: Exchange) -> None:
    """Answer well, then close the connection although it was to be kept."""
    await echo(exchange)
    exchange.close()


async def hang_in_mid_body(exchange: Exchange) -> None:
    """Begin an answer and never end it."""
    await exchange.raw(_HEAD + b'content-length: 1000\r\n\r\n{"status": "Success"')
    await exchange.until_closed()


async def drip(exchange: Exchange) -> None:
    """Answer one byte at a time, for longer than any time limit."""
    with suppress(ConnectionError):
        await exchange.raw(_HEAD + b"content-length: 100000\r\n\r\n{")
        while True:
            await exchange.raw(b" ")
            await asyncio.sleep(0.05)


async def truncated(exchange: Exchange) -> None:
    """End the answer before its promised length."""
    await exchange.raw(_HEAD + b'content-length: 1000\r\n\r\n{"status": "Success"}')
    exchange.close()


async def too_short_a_length(exchange: Exchange) -> None:
    """Send more than the promised length, so that the answer is cut JSON."""
    await exchange.raw(_HEAD + b'content-length: 10\r\n\r\n{"status": "Success"}')


async def bad_chunk(exchange: Exchange) -> None:
    """Send a chunk whose size is not a number."""
    await exchange.raw(_HEAD + b'transfer-encoding: chunked\r\n\r\nZZ\r\n{"status": "Success"}\r\n0\r\n\r\n')


async def garbage(exchange: Exchange) -> None:
    """Answer with bytes that are not HTTP."""
    await exchange.raw(bytes(range(256)))
    exchange.close()


async def html(exchange: Exchange) -> None:
    """Answer 200 with an HTML page, as some gateways do."""
    await exchange.answer(200, b"<html><body>It works!</body></html>")


async def gigabyte(exchange: Exchange) -> None:
    """Answer 200 with a gigabyte that is not JSON."""
    with suppress(ConnectionError):
        await exchange.raw(_HEAD + b"content-length: %d\r\n\r\n" % 2**30)
        for _ in range(2**30 // 2**16):
            await exchange.raw(b"x" * 2**16)


async def huge_headers(exchange: Exchange) -> None:
    """Answer with 1 MB of header fields."""
    await exchange.raw(_HEAD + b"x-filler: " + b"x" * 2**20 + b"\r\ncontent-length: 2\r\n\r\n{}")


def sandbox_error_at_first() -> Script:
    """Return a script that fails three jobs with SandboxError and then does well."""
    jobs = count()

    async def script(exchange: Exchange) -> None:
        if next(jobs) < 3:
            await exchange.answer(200, {"status": "SandboxError", "message": "no luck"})
        else:
            await echo(exchange)

    return script


def flapping() -> Script:
    """Return a script that fails every second job."""
    jobs = count()

    async def script(exchange: Exchange) -> None:
        await (echo if next(jobs) % 2 else reset_at_once)(exchange)

    return script


# By name: a function that makes the fault's script, and True if the worker must not be ejected, because its answers
# are right or the fault is not its own.
FAULTS: dict[str, tuple[Callable[[], Script], bool]] = {
    "hang before headers": (lambda: hang, False),
    "hang in mid-body": (lambda: hang_in_mid_body, False),
    "drip": (lambda: drip, False),
    "reset before the answer": (lambda: reset_at_once, False),
    "close before the answer": (lambda: close_at_once, False),
    "reset in mid-answer": (lambda: reset_in_mid_answer, False),
    "reset after the answer": (lambda: reset_after, True),
    "stale kept-alive connection": (lambda: close_after, True),
    "truncated": (lambda: truncated, False),
    "length too short": (lambda: too_short_a_length, False),
    "bad chunk": (lambda: bad_chunk, False),
    "garbage": (lambda: garbage, False),
    "HTML": (lambda: html, False),
    "1 GB": (lambda: gigabyte, False),
    "huge headers": (lambda: huge_headers, False),
    "500": (lambda: always(500), False),
    "502": (lambda: always(502), False),
    "503": (lambda: always(503), False),
    "504": (lambda: always(504), False),
    "429": (lambda: always(429), True),
    "SandboxError at first": (sandbox_error_at_first, True),
    "SandboxError always": (lambda: always(200, {"status": "SandboxError", "message": ""}), False),
    "flapping": (flapping, True),
}
