"""The workers that are named in files: those of config.yaml, and those of workers_file, one in each line.

A line is a host, host:port or URL, with or without /run_code. After it may stand what else is known of the worker:
`weight=2 max_concurrency=8 label=gpu label=ib language=python memory_mb=64000`.
"""

import logging
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from router.config.addresses import shown, worker_url
from router.config.bounds import MAX_COUNT, MAX_MEMORY_MB, MAX_WEIGHT, whole_number
from router.config.settings import Settings
from router.config.text_file import Unreadable, read_text
from router.fleet.model import Source, Worker
from router.policy.placement import LABEL, LANGUAGE, MAX_NAMES

log = logging.getLogger(__name__)

# SandboxFusion's own.
DEFAULT_PORT = 8080

_HAS_PORT = re.compile(r".*:\d+")
# What may stand after a worker: numbers with the highest that they may be, and names, each of which may be repeated.
_NUMBERS = {"weight": MAX_WEIGHT, "max_concurrency": MAX_COUNT, "memory_mb": MAX_MEMORY_MB}
_NAMES = {"label": LABEL, "language": LANGUAGE}
_EXAMPLES = {"label": "gpu", "language": "python"}


class _BadLine(Exception):
    """A line names no worker; the message says what was expected."""


def parse(text: str, name: str) -> tuple[tuple[Worker, ...], tuple[str, ...]]:
    r"""Return the workers, each once and in order, and a message for each line that is passed over.

    `name` is the file's name in messages. `#` begins a comment.

    >>> workers, problems = parse("node1 label=gpu # rack 3\nhttp://node2:9000/run_code\nnode 3", "hosts")
    >>> [(worker.url, worker.labels) for worker in workers]
    [('http://node1:8080', ('gpu',)), ('http://node2:9000', ())]
    >>> problems[0][:35], problems[0][-7:]
    ('hosts:3: expected weight=, max_conc', "got '3'")
    """
    workers: dict[str, Worker] = {}
    problems = []
    for number, line in enumerate(text.splitlines(), start=1):
        named = line.partition("#")[0].split()
        if not named:
            continue
        try:
            worker = _worker(*named)
            if workers.setdefault(worker.url, worker) != worker:
                raise _BadLine(f"{worker.url} stands above, with other values")
        except _BadLine as error:
            problems.append(f"{name}:{number}: {error}")
    return tuple(workers.values()), tuple(problems)


def configured_workers(settings: Settings) -> list[Worker]:
    """Return config.yaml's workers as the fleet knows them."""
    return [
        with_default_cap(
            Worker(
                *(worker.url, worker.weight, worker.max_concurrency, Source.CONFIG),
                *(worker.labels, worker.languages, worker.memory_mb),
            ),
            settings,
        )
        for worker in settings.workers
    ]


def known_workers(settings: Settings) -> list[Worker]:
    """Return the workers of config.yaml and, if it can be read, of workers_file."""
    workers = {worker.url: worker for worker in configured_workers(settings)}
    if settings.workers_file is not None:
        with suppress(Unreadable):  # the sidecar says what is wrong
            for worker in parse(read_text(Path(settings.workers_file)), settings.workers_file)[0]:
                workers.setdefault(worker.url, with_default_cap(worker, settings))
    return list(workers.values())


def with_default_cap(worker: Worker, settings: Settings) -> Worker:
    """Return `worker` with default_max_concurrency, if it has no cap of its own."""
    return replace(worker, max_concurrency=worker.max_concurrency or settings.default_max_concurrency)


def _worker(address: str, *options: str) -> Worker:
    """Return the worker of one line. Raises _BadLine."""
    try:
        url = _url(address)
    except ValueError as error:
        raise _BadLine(f"expected a host, host:port or URL, got {shown(address)!r}") from error
    numbers: dict[str, int] = {}
    names: dict[str, set[str]] = {key: set() for key in _NAMES}
    for option in options:
        key, _, value = option.partition("=")
        if key in _NUMBERS:
            if key in numbers:
                raise _BadLine(f"{key}: expected once")
            numbers[key] = _number(key, value)
        elif key in _NAMES:
            if not _NAMES[key].fullmatch(value):
                raise _BadLine(f"{key}: expected one name such as {_EXAMPLES[key]}, got {shown(value)!r}")
            names[key].add(value)
        else:
            wanted = ", ".join(f"{each}=" for each in (*_NUMBERS, *_NAMES))
            raise _BadLine(f"expected {wanted} after the worker, got {shown(option)!r}")
    if crowded := next((key for key, held in names.items() if len(held) > MAX_NAMES), None):
        raise _BadLine(f"{crowded}: expected {MAX_NAMES} at most")
    labels, languages = (tuple(sorted(names[key])) for key in ("label", "language"))
    return Worker(url, source=Source.FILE, labels=labels, languages=languages, **numbers)


def _number(key: str, text: str) -> int:
    if (number := whole_number(text, 1, _NUMBERS[key])) is None:
        raise _BadLine(f"{key}: expected a whole number from 1 to {_NUMBERS[key]}, got {shown(text)!r}")
    return number


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
