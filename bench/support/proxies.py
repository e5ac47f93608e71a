"""What is compared: this router and its peers, each with one process or thread, as its users would set it up.

All take turns over the workers and keep their connections to them. No peer reads jobs, counts what runs over several
hosts, or sends a job a second time once a worker has begun on it.
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

# No worker is ever full, and each lease is counted.
_CAP = 1024
# Commands of the peers; the path of the configuration comes last.
_COMMANDS = {
    "nginx": ("nginx", "-e", "stderr", "-c"),
    "haproxy": ("haproxy", "-db", "-f"),
    "envoy": ("envoy", "--concurrency", "1", "--disable-hot-restart", "--log-level", "warning", "-c"),
    "caddy": ("caddy", "run", "--adapter", "caddyfile", "--config"),
}


@dataclass(frozen=True)
class Proxy:
    """A running proxy: its port, its process, and other processes that it cannot do without."""

    port: int
    pid: int
    beside: Sequence[int] = ()


Start = Callable[[Path, Sequence[str]], AbstractAsyncContextManager[Proxy]]


def find(name: str) -> str | None:
    """Return the path of a program: of this environment, or the system's, as root's path knows it."""
    folders = (str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")
    return shutil.which(name, path=os.pathsep.join(folders))


@asynccontextmanager
async def router(folder: Path, workers: Sequence[str], processes: int = 1) -> AsyncIterator[Proxy]:
    """Gunicorn, Valkey and the sidecar: leases, metadata and retries on, as by default."""
    async with Valkey(folder) as valkey:
        system = System(folder, valkey.url)
        usual = {"timeout": 300, "health_check_interval": 30, "health_check": {"timeout": 5}}
        system.configure(workers, default_max_concurrency=_CAP, **usual)
        async with system.sidecar() as sidecar, system.router(processes) as gunicorn:
            await gunicorn.sees(len(workers))
            yield Proxy(gunicorn.port, gunicorn.pid, (valkey.pid, sidecar.pid))


@asynccontextmanager
async def peer(config: configs.Config, name: str, folder: Path, workers: Sequence[str]) -> AsyncIterator[Proxy]:
    """One of the peers, with this configuration."""
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
    """Return this router and the peers that are installed; say which are not."""
    found = {name: start for name, start in PROXIES.items() if name == OURS or find(name.lower())}
    for name in PROXIES.keys() - found.keys():
        print(f"{name} is not measured: there is no program {name.lower()}.", file=sys.stderr)
    return found
