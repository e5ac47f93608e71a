"""Starts this router and its peers, each with one process or thread, as users set them up.

All use round robin and keep their connections to workers. The peers do not read jobs, do not count jobs over several
hosts, and do not send a job again that a worker has begun.
"""

import os
import shutil
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.support import configs
from router.processes import accepts, free_port
from tests.support.eventually import eventually
from tests.support.programs import Program, System, Valkey

# So high that no worker is ever full. With a cap, each lease is counted.
_CAP = 1024
# A load breaks off its last requests. What they leave behind is forgotten before this router's next load: until then
# each job is asked for its key.
_ADOPT_S = 5
# The peers' commands. The path of the configuration follows.
_COMMANDS = {
    "nginx": ("nginx", "-e", "stderr", "-c"),
    "haproxy": ("haproxy", "-db", "-f"),
    "envoy": ("envoy", "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c"),
    "caddy": ("caddy", "run", "--adapter", "caddyfile", "--config"),
}


@dataclass(frozen=True)
class Proxy:
    """A running proxy: its port, its process, and the other processes that it needs."""

    port: int
    pid: int
    beside: Sequence[int] = ()


Start = Callable[[Path, Sequence[str]], AbstractAsyncContextManager[Proxy]]


def find(name: str) -> str | None:
    """Return the path of a program, looked up in this environment, in PATH, and in root's folders."""
    folders = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")
    return shutil.which(name, path=os.pathsep.join(folders))


@asynccontextmanager
async def router(folder: Path, workers: Sequence[str], processes: int = 1) -> AsyncIterator[Proxy]:
    """Run gunicorn, Valkey and the sidecar as `sfr up` does: with leases, metadata and retries, as the defaults are."""
    async with Valkey(folder, has_socket=True) as valkey:
        system = System(folder, valkey.url)
        usual = {"timeout": 300, "health_check_interval": 30, "health_check": {"timeout": 5}, "adopt_seconds": _ADOPT_S}
        system.configure(workers, default_max_concurrency=_CAP, **usual)
        async with system.sidecar() as sidecar, system.router(processes) as gunicorn:
            await gunicorn.sees(len(workers))
            yield Proxy(gunicorn.port, gunicorn.pid, (valkey.pid, sidecar.pid))


@asynccontextmanager
async def peer(config: configs.Config, name: str, folder: Path, workers: Sequence[str]) -> AsyncIterator[Proxy]:
    """Run the peer `name` with this configuration."""
    port = free_port()
    path = folder / f"{name}-{port}.conf"
    path.write_text(config(port, workers, folder))
    command, *options = _COMMANDS[name]
    argv = [find(command) or command, *options, str(path)]
    async with Program(argv, folder / f"{name}-{port}.log", {"HOME": str(folder)}, folder) as program:
        await eventually(partial(accepts, port), what=f"{name}'s port\n{program.output}")
        yield Proxy(port, program.pid)


OURS = "this router"
PROXIES: dict[str, Start] = {
    OURS: router,
    "Envoy": partial(peer, configs.envoy, "envoy"),
    "nginx": partial(peer, configs.nginx, "nginx"),
    "HAProxy": partial(peer, configs.haproxy, "haproxy"),
    "Caddy": partial(peer, configs.caddy, "caddy"),
}


def available() -> dict[str, Start]:
    """Return this router and the peers that are installed. Prints the names of those that are not."""
    found = {name: start for name, start in PROXIES.items() if name == OURS or find(name.lower())}
    for name in PROXIES.keys() - found.keys():
        print(f"{name} is not measured: there is no program {name.lower()}.", file=sys.stderr)
    return found
