"""The workers that are named in files: those of config.yaml, and those of workers_file, one in each line.

A line is a host, host:port or URL, with or without /run_code.
"""

import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from router.config.addresses import masked, worker_url
from router.config.settings import Settings
from router.config.text_file import Unreadable, read_text
from router.fleet.model import Source, Worker

log = logging.getLogger(__name__)

# SandboxFusion's own.
DEFAULT_PORT = 8080

# So much of a line is shown that names no worker.
_SHOWN_CHARACTERS = 200
_HAS_PORT = re.compile(r".*:\d+")


def parse(text: str, name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    r"""Return the workers' URLs, each once and in order, and a message for each line that names no worker.

    `name` is the file's name in messages. `#` begins a comment.

    >>> parse("node1  # rack 3\nhttp://node2:9000/run_code\nnode 3", "hosts")
    (('http://node1:8080', 'http://node2:9000'), ("hosts:3: expected a host, host:port or URL, got 'node 3'",))
    """
    urls: dict[str, None] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), start=1):
        named = line.partition("#")[0].strip()
        if not named:
            continue
        try:
            urls[_url(named)] = None
        except ValueError:
            shown = masked(named)[:_SHOWN_CHARACTERS]
            problems.append(f"{name}:{number}: expected a host, host:port or URL, got {shown!r}")
    return tuple(urls), tuple(problems)


def configured_workers(settings: Settings) -> list[Worker]:
    """Return config.yaml's workers as the fleet knows them."""
    default = settings.default_max_concurrency
    return [Worker(worker.url, worker.weight, worker.max_concurrency or default) for worker in settings.workers]


def known_workers(settings: Settings) -> list[Worker]:
    """Return the workers of config.yaml and, if it can be read, of workers_file."""
    workers = {worker.url: worker for worker in configured_workers(settings)}
    if settings.workers_file is not None:
        with suppress(Unreadable):  # the sidecar says what is wrong
            for url in parse(read_text(Path(settings.workers_file)), settings.workers_file)[0]:
                workers.setdefault(url, Worker(url, 1, settings.default_max_concurrency, Source.FILE))
    return list(workers.values())


def _url(named: str) -> str:
    scheme, colon, rest = named.partition("://")
    if not colon:
        address, slash, path = named.partition("/")
        port = "" if _HAS_PORT.fullmatch(address) else f":{DEFAULT_PORT}"
        scheme, rest = "http", f"{address}{port}{slash}{path}"
    return worker_url(f"{scheme}://{rest}")


def announce(workers: Sequence[Worker]) -> None:
    """Log which workers the router begins with, once at its start."""
    count = len(workers)
    log.info("Router started with %d worker%s%s", count, "" if count == 1 else "s", ":" if count else "")
    for worker in workers:
        log.info("  %s", worker.url)
