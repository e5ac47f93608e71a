"""No name and no answer of a worker ends the sidecar or disturbs the checks of other workers."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from fakeredis import FakeAsyncRedis
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from router.config.load import ConfigError, load
from router.config.settings import HealthCheckSettings, TlsSettings
from router.fleet.counters import Counters
from router.fleet.journal.history import FleetHistory
from router.fleet.leadership import Leadership
from router.fleet.model import Health, Observation
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient
from router.fleet.sizes import Speeds
from router.fleet.tenants import Tenants
from router.scheduling.messages import configured_rules
from sidecar.alive import Alive
from sidecar.checker import Checker
from sidecar.controller import Controller
from sidecar.discovery import Discovery
from sidecar.historian import Historian
from sidecar.job_probe import JobProbe
from sidecar.probe import Probe
from sidecar.rounds import forever
from sidecar.sources import WorkersFile
from tests.support.eventually import eventually
from tests.support.worker import Exchange, ScriptedWorker
from tests.unit.config.test_addresses import TEXTS

ANSWERS = st.one_of(
    st.binary(max_size=80),
    st.binary(max_size=40).map(lambda told: b"HTTP/1.1 200 OK\r\n" + told),
    st.binary(max_size=40).map(lambda told: b"HTTP/1.1 500 " + told + b"\r\ncontent-length: 0\r\n\r\n"),
    st.binary(max_size=40).map(lambda told: b"HTTP/1.1 200 OK\r\ncontent-length: 40\r\n\r\n" + told),
)
WORDS = st.one_of(TEXTS, st.sampled_from(["nan", "1e400", "-1", "9" * 5000, "0x10", "1.5", "", "٣"]))


class OddResolver:
    """A DNS that answers with any text or raises an error."""

    def __init__(self, answer: list[str] | Exception) -> None:
        self._answer = answer

    async def __call__(self, _host: str, _port: int) -> list[str]:
        """Resolve any name."""
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


async def lives_through(
    folder: Path,
    urls: Sequence[str],
    lines: Sequence[str],
    said: Sequence[tuple[str, str]],
    answer: bytes,
    dns: list[str] | Exception,
) -> None:
    """Run a sidecar until the good worker is healthy and the odd one unhealthy."""

    async def odd(exchange: Exchange) -> None:
        await exchange.raw(answer)
        exchange.close()

    hosts, path = folder / "hosts", folder / "config.yaml"
    # No time limit, like the product's own client: with one, redis-py sends through asyncio.wait_for, which in Python
    # 3.11 may lose a cancellation, and the sidecar would run for ever.
    async with (
        FakeAsyncRedis(decode_responses=True, encoding_errors="backslashreplace", socket_timeout=None) as redis,
        ScriptedWorker() as good,
        ScriptedWorker(ping=odd) as other,
        Probe(TlsSettings()) as probe,
    ):
        hosts.write_text("\n".join([*lines, good.url, other.url]), encoding="utf-8", errors="replace")
        base = f"workers_file: {hosts}\ndiscover: {{dns: 'boxes:1'}}\nhealth_check: {{timeout: 1}}\n"
        path.write_text(base)
        for url in urls:
            before = path.read_text()
            path.write_text(before + f"workers: [{url.encode('unicode_escape', 'replace').decode('ascii')!r}]\n")
            try:
                load(path)
            except ConfigError:
                path.write_text(before)
        for url, word in said:
            await redis.sadd("sfr:registered", url)
            await redis.hset(f"sfr:registered:{url}", mapping={"weight": word, "max_concurrency": word})
            await redis.hset(
                "sfr:intent", mapping={f"weight {url}": word, f"max_concurrency {good.url}": word, url: word}
            )
            await redis.hset("sfr:tenants:intent", mapping={url: word, "run-7": word, word: "{}"})
            await redis.hset("sfr:tenants", mapping={url: word, "run-7": word})
            await redis.sadd("sfr:drain", url)
            await redis.sadd("sfr:workers", url)
            await redis.hset(f"sfr:worker:{url}", mapping={"weight": word, "since": word, "latency_ms": word})
        client = RedisClient(redis, "sfr", timeout_s=5)
        config = load(path)
        job_probe = JobProbe("sidecar", configured_rules(config), client, probe)
        sidecar = Controller(
            "me",
            Discovery(path, config, client, OddResolver(dns)),
            Leadership(client),
            Records(client),
            Tenants(client),
            probe,
            job_probe,
            Speeds(client),
            Alive(None),
            Historian(Counters(client), FleetHistory(client)),
        )
        running = asyncio.create_task(sidecar.run())

        async def is_judged() -> bool:
            assert not running.done()
            found = (
                await redis.hget(f"sfr:worker:{good.url}", "health"),
                await redis.hget(f"sfr:worker:{other.url}", "health"),
            )
            return found == (Health.HEALTHY, Health.UNHEALTHY)

        try:
            await eventually(is_judged, what="both workers' health")
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    urls=st.lists(TEXTS, max_size=2),
    lines=st.lists(TEXTS, max_size=4),
    said=st.lists(st.tuples(TEXTS, WORDS), max_size=3),
    answer=ANSWERS,
    dns=st.one_of(
        st.lists(TEXTS, max_size=3),
        st.sampled_from(
            [UnicodeError("label empty or too long"), OSError(-2, "unknown"), LookupError("idna"), TimeoutError()]
        ),
    ),
)
@example(urls=["http://node..1:8080"], lines=["node..1"], said=[("http://node..1:8080", "1")], answer=b"", dns=[])
@example(
    urls=[], lines=[], said=[("\udcff", "9" * 5000)], answer=b"HTTP/1.1 500 \xff\x1b\r\n\r\n", dns=["fe80::1%2", "a..b"]
)
def test_sidecar_survives_any_name_and_any_answer(
    urls: list[str], lines: list[str], said: list[tuple[str, str]], answer: bytes, dns: list[str] | Exception
) -> None:
    """This holds for any URL, value in Redis, line of a file, address and answer."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(lives_through(Path(folder), urls, lines, said, answer, dns))


class Raising(Probe):
    """A probe in which a library raises an unexpected error."""

    async def ping(self, worker_url: str, settings: HealthCheckSettings) -> Observation:  # noqa: ARG002
        """Raise an error."""
        raise UnicodeError(f"label of {worker_url}\nempty or \x1b[1mtoo long\udcff")


async def test_error_in_a_check_concerns_that_worker_only() -> None:
    """The error becomes the worker's, as one line that is safe for logs, JSON and terminals."""
    async with FakeAsyncRedis(decode_responses=True) as redis:
        client, probe = RedisClient(redis, "sfr", timeout_s=5), Raising(TlsSettings())
        job_probe = JobProbe("sidecar", configured_rules(load(Path("config.yaml"))), client, probe)
        seen = await Checker("http://a", Records(client), probe, job_probe).check(Health.UNKNOWN, HealthCheckSettings())
    assert seen.error == "cannot be checked: UnicodeError: label of http://a empty or ?[1mtoo long?"


async def test_bug_ends_a_round_and_not_the_sidecar(caplog: pytest.LogCaptureFixture) -> None:
    """The same error is logged once, and the next round starts."""
    rounds = 0

    async def one_round() -> None:
        nonlocal rounds
        rounds += 1
        if rounds != 3:
            raise LookupError("no such thing")

    running = asyncio.create_task(forever(one_round, 0))
    await eventually(lambda: rounds > 5, what="more rounds")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert caplog.text.count("The sidecar goes on after a fault of its own") == 2


def test_unreadable_file_names_no_worker(tmp_path: Path) -> None:
    """A folder is an example of such a file."""
    file = WorkersFile(tmp_path)
    file.reread()
    assert file.workers is None
