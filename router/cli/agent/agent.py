"""`sfr agent`: runs a worker's command, and has the worker in the fleet for as long as it answers and is wanted.

Told to end, it drains the worker, waits for its jobs, gives up its place and then ends the command: no job is lost. The
fleet's side stands in fleet_place.py.
"""

import asyncio
import logging
import os
import signal
import ssl
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from router.auth.admin_token import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE
from router.cli.agent.registration import Course, Registrar
from router.cli.router_client import Exit, Failed, RouterClient
from router.processes import die_with_parent

log = logging.getLogger(__name__)

_PING_EVERY_S = 0.25
_PING_TIMEOUT_S = 5.0
# A large image takes minutes to start; so often it is said that it is still waited for.
_STILL_WAITING_EVERY_S = 30.0
_POLL_S = 0.05
# What shells answer for a command that is not there, and one that cannot be executed (POSIX, "Exit Status").
_NOT_FOUND = 127
_NOT_EXECUTABLE = 126
_SIGNALLED = 128


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run, and as which worker (`fields`: NewWorker's).

    `grace_s`: how long running jobs may take once it is told to end; `kill_after_s`: the command, once it is.
    """

    command: Sequence[str]
    fields: Mapping[str, Any]
    ttl_s: float
    grace_s: float
    kill_after_s: float

    @property
    def url(self) -> str:
        """The worker's address."""
        url: str = self.fields["url"]
        return url


class Agent:
    """Runs one plan."""

    def __init__(self, plan: Plan, routers: Sequence[RouterClient]) -> None:
        self._plan = plan
        self._course = Course()
        self._places = [Registrar(each, plan.fields, plan.ttl_s, self._course, self._on_refusal) for each in routers]
        self._told = asyncio.Event()
        self._refusal: Failed | None = None

    async def run(self) -> int:
        """Return the exit status: the command's, 128 + n where signal n ended it. Raises Failed, the command ended."""
        url = self._plan.url
        if await asyncio.to_thread(answers_ping, url):
            raise Failed(f"something answers at {url} already: is another worker on this port?", Exit.REFUSED)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        try:
            process = await self._start()
        except OSError as error:
            log.error("%s cannot be run: %s", self._plan.command[0], error.strerror)  # noqa: TRY400
            return _NOT_FOUND if isinstance(error, FileNotFoundError) else _NOT_EXECUTABLE
        log.info("Started %s, process %d; waiting for %s to answer", self._plan.command[0], process.pid, url)
        try:
            await self._keep_in_fleet(process)
        finally:
            status = await _end(process, self._plan.kill_after_s)
        log.info("%s ended with status %d", self._plan.command[0], status)
        if self._refusal:
            raise self._refusal
        return status

    async def _start(self) -> asyncio.subprocess.Process:
        # A worker runs strangers' code: the token is not for it.
        hidden = {TOKEN_VARIABLE, TOKEN_FILE_VARIABLE}
        return await asyncio.create_subprocess_exec(
            *self._plan.command,
            env={name: value for name, value in os.environ.items() if name not in hidden},
            stdin=asyncio.subprocess.DEVNULL,
            # Its own session: a terminal's Ctrl-C reaches the agent alone, which drains first.
            start_new_session=True,
            preexec_fn=die_with_parent,
        )

    async def _keep_in_fleet(self, process: asyncio.subprocess.Process) -> None:
        """Return when the command has ended, or is to end, and the worker has left the fleet."""
        course = self._course
        ended = asyncio.create_task(process.wait())
        told = asyncio.create_task(self._told.wait())
        joining = asyncio.create_task(self._join())
        await asyncio.wait({ended, told, joining}, return_when=asyncio.FIRST_COMPLETED)
        course.leaving.set()
        hurry = asyncio.create_task(course.hurry.wait())
        # Where the command is over nothing runs any more.
        await asyncio.wait({ended, hurry, joining}, timeout=self._plan.grace_s, return_when=asyncio.FIRST_COMPLETED)
        if not joining.done() and not ended.done() and not course.hurry.is_set():
            log.warning("Jobs still run after %g s; the command is ended all the same", self._plan.grace_s)
        course.hurry.set()
        await joining
        for task in (ended, told, hurry):
            task.cancel()

    async def _join(self) -> None:
        """Be in the fleet from the worker's first answer on, until that is over."""
        if await self._answers():
            log.info("Worker %s answers", self._plan.url)
            async with asyncio.TaskGroup() as places:
                for place in self._places:
                    places.create_task(place.run())

    async def _answers(self) -> bool:
        """Wait until the worker answers; False where it is to leave before."""
        say_at = time.monotonic() + _STILL_WAITING_EVERY_S
        while not self._course.leaving.is_set():
            if await asyncio.to_thread(answers_ping, self._plan.url):
                return not self._course.leaving.is_set()
            if time.monotonic() > say_at:
                log.warning('%s does not answer /v1/ping with "pong" yet', self._plan.url)
                say_at += _STILL_WAITING_EVERY_S
            await asyncio.sleep(_PING_EVERY_S)
        return False

    def _on_signal(self, number: signal.Signals) -> None:
        if self._told.is_set():
            log.warning("%s again: running jobs are not waited for", number.name)
            self._course.hurry.set()
            return
        log.info(
            "%s: the worker is drained, its jobs have %g s; once more ends it now", number.name, self._plan.grace_s
        )
        self._told.set()

    def _on_refusal(self) -> None:
        """End all where no router takes this worker, and none ever has: to wait longer would change nothing."""
        refusals = [place.refusal for place in self._places if place.refusal]
        if len(refusals) == len(self._places) and not self._course.joined.is_set():
            self._refusal = refusals[0]
            log.error("No router takes worker %s: the command is ended", self._plan.url)
            self._told.set()


def answers_ping(url: str) -> bool:
    """Whether a worker answers at `url`. Whatever its certificate: it is told nothing."""
    parts = urlsplit(url)
    if parts.scheme == "https":
        any_certificate = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        any_certificate.check_hostname = False
        any_certificate.verify_mode = ssl.CERT_NONE
        host = parts.hostname or ""
        connection: HTTPConnection = HTTPSConnection(host, parts.port, timeout=_PING_TIMEOUT_S, context=any_certificate)
    else:
        connection = HTTPConnection(parts.hostname or "", parts.port, timeout=_PING_TIMEOUT_S)
    try:
        connection.request("GET", f"{parts.path}/v1/ping")
        answer = connection.getresponse()
        if answer.status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
            return True  # it wants a key (worker_auth), which routers and sidecar have
        return answer.status == HTTPStatus.OK and answer.read(100).strip() in (b'"pong"', b"pong")
    except (OSError, HTTPException, UnicodeError):
        return False
    finally:
        connection.close()


async def _end(process: asyncio.subprocess.Process, kill_after_s: float) -> int:
    """End the command and all of its process group; return its status, 128 + n where signal n ended it."""
    give_up_at = time.monotonic() + kill_after_s
    _signal_group(process, signal.SIGTERM)
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), kill_after_s)
    while _signal_group(process, None) and time.monotonic() < give_up_at:  # noqa: ASYNC110  (the kernel tells nobody)
        await asyncio.sleep(_POLL_S)
    if _signal_group(process, signal.SIGKILL):
        log.warning("The command did not end within %g s of SIGTERM and is killed", kill_after_s)
    status = await process.wait()
    return status if status >= 0 else _SIGNALLED - status


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals | None) -> bool:
    """Send the signal, or none, to the command's process group; return whether anybody is left in it."""
    try:
        os.killpg(process.pid, number or 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True
