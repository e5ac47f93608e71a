"""`sfr agent`: runs a worker's command, and keeps the worker in the fleet while it answers.

When the agent is told to end, it drains the worker, waits for its jobs, removes it from the fleet and then ends the
command: no job is lost. Without a command, something else runs the worker, such as another container of the same pod.
registration.py talks to the routers.
"""

import asyncio
import logging
import math
import os
import signal
import ssl
import time
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from router.auth.admin_token import TOKEN_FILE_VARIABLE, TOKEN_VARIABLE
from router.cli.agent.registration import Lifecycle, Registrar
from router.cli.failure import Exit, Failed
from router.cli.router_client import RouterClient
from router.processes import ONE_SIGNAL_S, end_group, start_session

log = logging.getLogger(__name__)

_PING_EVERY_S = 0.25
_PING_TIMEOUT_S = 5.0
# A large image takes minutes to start; meanwhile the log repeats this often that the worker does not answer.
_REMIND_EVERY_S = 30.0


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """Which command to run, if any, and how to register its worker (`fields`: NewWorker's).

    When the agent is told to end, running jobs have `grace_s` seconds; then the command has `kill_after_s` seconds. The
    file `mark` exists while the worker may be in the fleet.
    """

    command: Sequence[str]
    fields: Mapping[str, Any]
    ttl_s: float
    grace_s: float
    kill_after_s: float
    mark: Path | None = None

    @property
    def url(self) -> str:
        """The worker's address."""
        url: str = self.fields["url"]
        return url


class Agent:
    """Runs one worker, and registers it with each of `routers`."""

    def __init__(self, options: AgentOptions, routers: Sequence[RouterClient]) -> None:
        self._options = options
        self._lifecycle = Lifecycle()
        self._registrars = [
            Registrar(router, options.fields, options.ttl_s, self._lifecycle, self._on_refusal) for router in routers
        ]
        self._ending = asyncio.Event()
        self._signalled_at = -math.inf
        self._refusal: Failed | None = None

    async def run(self) -> int:
        """Run until the command ends or a signal comes; return the exit status.

        That is the command's own, or 128 + n if signal n ended it, and 0 without a command. Raises Failed when the
        agent has ended because no router takes the worker.
        """
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        if self._options.command:
            status = await self._run_command(self._options.command)
        else:
            log.info("Waiting for %s to answer", self._options.url)
            await self._keep_in_fleet(asyncio.Event().wait())  # nobody tells when the worker ends
            status = Exit.DONE
        if self._refusal:
            raise self._refusal
        return status

    async def _run_command(self, command: Sequence[str]) -> int:
        """Run the command while its worker is kept in the fleet; return its exit status. Raises Failed."""
        url = self._options.url
        if await asyncio.to_thread(answers_ping, url):
            raise Failed(f"something answers at {url} already: is another worker on this port?", Exit.FAILED)
        # A worker runs code of strangers, so it must not see the token.
        hidden = {TOKEN_VARIABLE, TOKEN_FILE_VARIABLE}
        try:
            process = await start_session(command, {k: v for k, v in os.environ.items() if k not in hidden})
        except OSError as error:
            log.error("%s cannot be run: %s", command[0], error.strerror)  # noqa: TRY400
            return Exit.NOT_FOUND if isinstance(error, FileNotFoundError) else Exit.NOT_EXECUTABLE
        log.info("Started %s, process %d; waiting for %s to answer", command[0], process.pid, url)
        try:
            await self._keep_in_fleet(process.wait())
        finally:
            # The whole group, because a shell does not pass SIGTERM on.
            if await end_group(process, self._options.kill_after_s, whole=True):
                log.warning("The command did not end within %g s of SIGTERM and is killed", self._options.kill_after_s)
            status = await process.wait()
        status = status if status >= 0 else Exit.SIGNALLED - status
        log.info("%s ended with status %d", command[0], status)
        return status

    async def _keep_in_fleet(self, until: Coroutine[Any, Any, object]) -> None:
        """Return when the worker has left the fleet, because `until` has ended or the agent is to end."""
        lifecycle = self._lifecycle
        ended = asyncio.create_task(until)
        ending = asyncio.create_task(self._ending.wait())
        joining = asyncio.create_task(self._join())
        await asyncio.wait({ended, ending, joining}, return_when=asyncio.FIRST_COMPLETED)
        lifecycle.leaving.set()
        hurry = asyncio.create_task(lifecycle.hurry.wait())
        # If the command has ended, no job runs any more.
        await asyncio.wait({ended, hurry, joining}, timeout=self._options.grace_s, return_when=asyncio.FIRST_COMPLETED)
        if not joining.done() and not ended.done() and not lifecycle.hurry.is_set():
            log.warning("Jobs still run after %g s; the worker leaves all the same", self._options.grace_s)
        lifecycle.hurry.set()
        await joining
        for task in (ended, ending, hurry):
            task.cancel()

    async def _join(self) -> None:
        """Wait for the worker's first answer; then keep it registered until it is to leave."""
        if await self._answers():
            log.info("Worker %s answers", self._options.url)
            with _marked(self._options.mark):
                async with asyncio.TaskGroup() as tasks:
                    for registrar in self._registrars:
                        tasks.create_task(registrar.run())

    async def _answers(self) -> bool:
        """Wait until the worker answers; return False if the worker is to leave before that."""
        remind_at = time.monotonic() + _REMIND_EVERY_S
        while not self._lifecycle.leaving.is_set():
            if await asyncio.to_thread(answers_ping, self._options.url):
                return not self._lifecycle.leaving.is_set()
            if time.monotonic() > remind_at:
                log.warning('%s does not answer /v1/ping with "pong" yet', self._options.url)
                remind_at += _REMIND_EVERY_S
            await asyncio.sleep(_PING_EVERY_S)
        return False

    def _on_signal(self, number: signal.Signals) -> None:
        now = time.monotonic()
        if now - self._signalled_at < ONE_SIGNAL_S:
            return
        self._signalled_at = now
        if self._ending.is_set():
            log.warning("%s again: running jobs are not waited for", number.name)
            self._lifecycle.hurry.set()
            return
        grace_s = self._options.grace_s
        log.info("%s: the worker is drained, its jobs have %g s; once more ends it now", number.name, grace_s)
        self._ending.set()

    def _on_refusal(self) -> None:
        """End the command if every router refuses this worker and none has ever taken it: waiting would not help."""
        refusals = [registrar.refusal for registrar in self._registrars if registrar.refusal]
        if len(refusals) == len(self._registrars) and not self._lifecycle.joined.is_set():
            self._refusal = refusals[0]
            log.error("No router takes worker %s: the agent ends", self._options.url)
            self._ending.set()


@contextmanager
def _marked(mark: Path | None) -> Iterator[None]:
    """Keep the file there while the block runs. An agent that is killed leaves it, as it leaves its worker."""
    if mark is None:
        yield
        return
    mark.touch()
    try:
        yield
    finally:
        mark.unlink(missing_ok=True)


def answers_ping(url: str) -> bool:
    """Whether a worker answers at `url`. Any certificate will do, because no secret is sent."""
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
            return True  # it wants the header of worker_auth, which routers and the sidecar have
        return answer.status == HTTPStatus.OK and answer.read(100).strip() in (b'"pong"', b"pong")
    except (OSError, HTTPException, UnicodeError):
        return False
    finally:
        connection.close()
