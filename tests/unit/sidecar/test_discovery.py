"""Which workers discovery wants: sources, their order, and what each source keeps after a failure; Redis is a fake."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from router.config.load import load
from router.fleet.counters import Counters
from router.fleet.intents import Intents, Registration
from router.fleet.journal.history import FleetHistory
from router.fleet.keys import Keys
from router.fleet.leadership import Leadership
from router.fleet.model import Source, Worker
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient, RedisUnavailable
from router.fleet.sizes import Speeds
from router.fleet.tenants import Tenants
from router.fleet.worker_list import DEFAULT_PORT, known_workers, parse
from router.policy.tenants import MAX_TENANTS, TenantRule
from router.scheduling.messages import configured_rules
from sidecar.alive import Alive
from sidecar.controller import Controller
from sidecar.discovery import DNS_EVERY_S, GATHER_S, Discovery
from sidecar.historian import Historian
from sidecar.job_probe import JobProbe
from sidecar.probe import Probe
from sidecar.sources import RESOLVE_WITHIN_S, ConfigFile, DnsName, WorkersFile, addresses_of
from tests.support.eventually import eventually
from tests.support.files import put
from tests.support.timeless import timeless

PARTS = "expected weight=, max_concurrency=, memory_mb=, label=, language="
A, B, C, D = (f"http://{name}:1" for name in "abcd")


@pytest.fixture
async def redis() -> AsyncIterator[RedisClient]:
    """A client of a fake Redis with Lua, in which a sidecar has already led."""
    # Without a time limit, like the product's own client: see test_sidecar_lives.
    async with FakeAsyncRedis(decode_responses=True, socket_timeout=None) as redis:
        client = RedisClient(redis, "sfr", timeout_s=5)
        await Leadership(client).lead("me", 3)
        yield client


class Resolver:
    """A DNS with the test's answer, or a failure."""

    def __init__(self) -> None:
        self.addresses: list[str] | None = None

    async def __call__(self, _host: str, _port: int) -> list[str]:
        """Resolve any name."""
        if self.addresses is None:
            raise OSError(-2, "Name or service not known")
        return self.addresses


def discovery_of(folder: Path, redis: RedisClient, text: str, resolver: Resolver | None = None) -> Discovery:
    """Return a Discovery with a config.yaml of this text."""
    path = folder / "config.yaml"
    put(path, text)
    return Discovery(path, load(path), redis, resolver or Resolver())


def sources(wanted: dict[str, Worker]) -> dict[str, str]:
    """Return the source of each worker."""
    return {url: worker.source for url, worker in wanted.items()}


@pytest.mark.parametrize(
    ("line", "url"),
    [
        ("node1", f"http://node1:{DEFAULT_PORT}"),
        ("  Node1.example.org:9000 ", "http://node1.example.org:9000"),
        ("10.0.0.7/run_code", f"http://10.0.0.7:{DEFAULT_PORT}"),
        ("10.0.0.7:80/run_code/", "http://10.0.0.7"),
        ("[fd00::1]", f"http://[fd00::1]:{DEFAULT_PORT}"),
        ("[fd00::1]:81", "http://[fd00::1]:81"),
        ("http://node1", "http://node1"),
        ("https://node1:8443/box/run_code  # behind a proxy", "https://node1:8443/box"),
    ],
)
def test_line_names_a_worker(line: str, url: str) -> None:
    """A line is a host, host:port or URL, with or without /run_code; a URL keeps its own port."""
    assert parse(line, "f") == ((Worker(url, source=Source.FILE),), ())


@pytest.mark.parametrize("line", ["node:port", "ftp://a", "http://", "fd00::1", "a:99999", "u:p@a", "a?b", "é..é"])
def test_bad_line_is_named_with_file_and_number(line: str) -> None:
    """The other lines of the file still count."""
    workers, (problem,) = parse(f"a:1\r\n# all of them\n\n{line}\nb:1\na:1", "hosts.txt")
    assert [worker.url for worker in workers] == [A, B]
    assert problem == f"hosts.txt:4: expected a host, host:port or URL, got {line.replace('u:p@', '***@')!r}"


def test_line_tells_what_else_is_known_of_its_worker() -> None:
    """Labels and languages may be repeated, and come sorted, each once; the order of all parts is free."""
    line = "a:1 label=ib max_concurrency=8 label=gpu language=c++ language=R label=ib memory_mb=64000\tweight=2 # x=1"
    expected = Worker(A, 2, 8, Source.FILE, ("gpu", "ib"), ("R", "c++"), 64_000)
    assert parse(line, "f") == ((expected,), ())


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ("3", "expected weight=, max_concurrency=, memory_mb=, label=, language= after the worker, got '3'"),
        (
            "slots=4",
            "expected weight=, max_concurrency=, memory_mb=, label=, language= after the worker, got 'slots=4'",
        ),
        ("label=", "label: expected one name such as gpu, got ''"),
        ("label=gpu,ib", "label: expected one name such as gpu, got 'gpu,ib'"),
        ("language=a;b", "language: expected one name such as python, got 'a;b'"),
        ("weight=101", "weight: expected a whole number from 1 to 100, got '101'"),
        ("weight=2 weight=3", "weight: expected once"),
        ("memory_mb=64G", "memory_mb: expected a whole number from 1 to 1073741824, got '64G'"),
        ("max_concurrency=0", "max_concurrency: expected a whole number from 1 to 1000000000, got '0'"),
        (" ".join(f"label=l{number}" for number in range(65)), "label: expected 64 at most"),
    ],
)
def test_bad_part_of_a_line_is_named_and_the_line_passed_over(parts: str, told: str) -> None:
    """A worker without the labels that were meant for it would get jobs that it cannot run."""
    assert parse(f"# hosts\na:1 {parts}", "hosts.txt") == ((), (f"hosts.txt:2: {told}",))


def test_worker_that_stands_twice_with_other_values_is_told() -> None:
    """The first line counts."""
    workers, (problem,) = parse("a:1 weight=2\na:1 weight=2\nhttp://A:1/ weight=3", "f")
    assert (workers, problem) == ((Worker(A, 2, source=Source.FILE),), f"f:3: {A} stands above, with other values")


async def test_file_is_read_again_when_it_changes(
    tmp_path: Path, redis: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Workers of a missing file stay, a bad line is logged once, and an empty file names no worker."""
    hosts = tmp_path / "hosts"
    discovery = discovery_of(tmp_path, redis, f"{{workers_file: {hosts}, default_max_concurrency: 4}}")
    await discovery.reread()
    await discovery.reread()
    assert caplog.text.count(f"{hosts} cannot be read: No such file") == 1
    held = Worker(D, 1, 4, Source.FILE)
    assert discovery.wanted([held]) == {D: held}
    put(hosts, "a:1\nb b\n")
    for _ in range(2):
        await discovery.reread()
    assert discovery.wanted([held]) == {A: Worker(A, 1, 4, Source.FILE)}
    assert caplog.text.count(f"Line passed over: {hosts}:2: ") == 1
    hosts.unlink()
    await discovery.reread()
    assert discovery.wanted([]).keys() == {A}
    put(hosts, "# nobody\n")
    await discovery.reread()
    assert discovery.wanted([held]) == {}
    put(hosts, "\n".join("x y" for _ in range(40)))
    await discovery.reread()
    assert f"{hosts}: 30 more such lines" in caplog.text


async def test_dns_answer_is_kept_if_a_later_one_fails(
    tmp_path: Path, redis: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Each address is a worker; a failure is logged once with the name, and removes no worker."""
    resolver = Resolver()
    discovery = discovery_of(tmp_path, redis, "discover: {dns: 'boxes.svc:8080'}", resolver)
    await discovery.reread()
    held = Worker("http://10.0.0.9:8080", source=Source.DNS)
    running = asyncio.create_task(discovery.run())
    await eventually(lambda: "boxes.svc:8080 cannot be resolved" in caplog.text, what="the logged failure")
    assert discovery.wanted([held]) == {held.url: held}
    resolver.addresses = ["10.0.0.1", "[fd00::2]"]
    dns = discovery._dns
    assert dns is not None
    assert await dns.look_up()
    assert sources(discovery.wanted([held])) == {"http://10.0.0.1:8080": "dns", "http://[fd00::2]:8080": "dns"}
    resolver.addresses = None
    assert not await dns.look_up()
    assert len(discovery.wanted([])) == 2
    running.cancel()


async def test_name_with_addresses_of_both_kinds_is_one_worker() -> None:
    """IPv4 addresses count if there are any, and otherwise IPv6 addresses in brackets."""
    assert await addresses_of("127.0.0.1", 80) == ["127.0.0.1"]
    assert await addresses_of("::1", 80) == ["[::1]"]
    assert await addresses_of("localhost", 80) == ["127.0.0.1"]


async def test_first_source_decides_weight_and_cap_unless_overridden(tmp_path: Path, redis: RedisClient) -> None:
    """The order is config.yaml, registrations, the file; an operator's override wins, also after a reread."""
    put(tmp_path / "hosts", "a:1\nb:1\nc:1")
    text = f"{{workers: [{{url: '{A}', weight: 2}}], workers_file: {tmp_path / 'hosts'}}}"
    discovery = discovery_of(tmp_path, redis, text)
    intents = Intents(redis)
    await intents.register(Registration(A, 9))
    await intents.register(Registration(B, 3, 5))
    await intents.override(A, {"max_concurrency": 6})
    await discovery.reread()
    expected = {A: Worker(A, 2, 6), B: Worker(B, 3, 5, Source.REGISTERED), C: Worker(C, source=Source.FILE)}
    assert discovery.wanted([]) == expected
    put(tmp_path / "config.yaml", text.replace("weight: 2", "weight: 4"))
    await discovery.reread()
    assert discovery.wanted([])[A] == Worker(A, 4, 6)
    await intents.override(A, {"max_concurrency": None})
    await intents.remove(B)
    await discovery.reread()
    assert (discovery.wanted([])[A], discovery.wanted([])[B].source) == (Worker(A, 4), "file")


async def test_labels_languages_and_memory_come_from_each_source(tmp_path: Path, redis: RedisClient) -> None:
    """config.yaml, a registration and a line of the file name them for one worker, `discover` for each address."""
    put(tmp_path / "hosts", "c:1 label=ib memory_mb=3000")
    resolver = Resolver()
    resolver.addresses = ["10.0.0.1"]
    text = f"""
workers: [{{url: '{A}', labels: [ib, gpu], languages: [python], memory_mb: 1000}}]
workers_file: {tmp_path / "hosts"}
discover: {{dns: 'boxes:8080', labels: [arm], languages: [cpp], memory_mb: 4000}}
"""
    discovery = discovery_of(tmp_path, redis, text, resolver)
    intents = Intents(redis)
    await intents.register(Registration(B, labels=("cpu",), languages=("bash", "sql"), memory_mb=2000))
    await intents.override(A, {"weight": 2})
    await discovery.reread()
    assert discovery._dns is not None
    await discovery._dns.look_up()
    resolved = "http://10.0.0.1:8080"
    assert discovery.wanted([]) == {
        A: Worker(A, 2, None, Source.CONFIG, ("gpu", "ib"), ("python",), 1000),
        B: Worker(B, 1, None, Source.REGISTERED, ("cpu",), ("bash", "sql"), 2000),
        C: Worker(C, 1, None, Source.FILE, ("ib",), (), 3000),
        resolved: Worker(resolved, 1, None, Source.DNS, ("arm",), ("cpp",), 4000),
    }
    put(tmp_path / "config.yaml", text.replace("[arm]", "[gpu]"))
    await discovery.reread()
    assert discovery.wanted([])[resolved].labels == ("gpu",)


async def test_no_worker_leaves_before_registrations_are_read(
    tmp_path: Path, redis: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a sidecar that cannot read Redis nor a Redis that lost everything empties the fleet."""
    intents = Intents(redis)
    discovery = discovery_of(tmp_path, redis, f"workers: ['{A}']")
    held = Worker(B, 3, source=Source.REGISTERED)
    assert sources(discovery.wanted([held])) == {A: "config", B: "registered"}
    await discovery.reread()
    assert sources(discovery.wanted([held])) == {A: "config"}
    await intents.register(Registration(B))
    await intents.drain(B)
    await discovery.reread()
    await redis.command(["FLUSHALL"])
    await discovery.reread()
    assert sources(discovery.wanted([])) == {A: "config", B: "registered"}
    await Leadership(redis).lead("me", 3)
    await discovery.reread()
    assert sources(discovery.wanted([])) == {A: "config", B: "registered"}
    assert (await intents.read()).draining == {B}
    assert caplog.text.count("Redis has lost what it held") == 1


async def test_new_intent_wakes_the_sidecar(tmp_path: Path, redis: RedisClient) -> None:
    """A registration wakes the sidecar."""
    discovery = discovery_of(tmp_path, redis, "")
    running = asyncio.create_task(discovery.run())
    await discovery.wait_for_change(within_s=1.0)  # waits until the sidecar has subscribed
    waiting = asyncio.create_task(discovery.wait_for_change(within_s=60))
    await Intents(redis).register(Registration(A))
    await asyncio.wait_for(waiting, 5)
    running.cancel()


async def test_registered_worker_without_a_cap_has_the_fleet_s(tmp_path: Path, redis: RedisClient) -> None:
    """default_max_concurrency applies to it like to any worker."""
    discovery = discovery_of(tmp_path, redis, "default_max_concurrency: 4")
    await Intents(redis).register(Registration(A))
    await Intents(redis).register(Registration(B, max_concurrency=9))
    await discovery.reread()
    assert [discovery.wanted([])[url].max_concurrency for url in (A, B)] == [4, 9]


async def test_changed_settings_replace_file_and_name(tmp_path: Path, redis: RedisClient) -> None:
    """A source that the new settings still name keeps its last answer, even if it has none now."""
    put(tmp_path / "one", "a:1")
    put(tmp_path / "two", "b:1")
    resolver = Resolver()
    resolver.addresses = ["10.0.0.1"]
    text = f"{{workers_file: {tmp_path / 'one'}, discover: {{dns: 'x:1'}}}}"
    discovery = discovery_of(tmp_path, redis, text, resolver)

    async def reread(text: str) -> set[str]:
        put(tmp_path / "config.yaml", text)
        await discovery.reread()
        if discovery._dns is not None and discovery._dns.urls is None:
            await discovery._dns.look_up()
        return set(discovery.wanted([]))

    assert await reread(text) == {A, "http://10.0.0.1:1"}
    (tmp_path / "one").unlink()
    assert await reread(text.replace("{", "{timeout: 9, ", 1)) == {A, "http://10.0.0.1:1"}
    assert await reread(text.replace("one", "two").replace("x:1", "y:2")) == {B, "http://10.0.0.1:2"}
    assert await reread("workers: []") == set()


async def test_bad_intent_is_logged_once(tmp_path: Path, redis: RedisClient, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged again only after another problem."""
    discovery = discovery_of(tmp_path, redis, "")
    for wrong, told in (("much", 1), ("more", 2)):
        await redis.command(["HSET", "sfr:intent", f"weight {A}", wrong])
        for _ in range(3):
            await discovery.reread()
            assert caplog.text.count("Passed over: ") == told
    await redis.command(["HDEL", "sfr:intent", f"weight {A}"])
    await discovery.reread()
    assert caplog.text.count("Passed over: ") == 2


async def test_override_of_an_unknown_worker_adds_none(tmp_path: Path, redis: RedisClient) -> None:
    """An override for a mistyped URL changes neither the fleet nor the other intents."""
    discovery = discovery_of(tmp_path, redis, f"workers: ['{A}']")
    await Intents(redis).override(B, {"weight": 3})
    await discovery.reread()
    assert discovery.wanted([]) == {A: Worker(A)}


async def test_failure_to_read_intents_is_logged_once_each_time(
    tmp_path: Path, redis: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged from the first read on, and again if it returns after it was over."""
    discovery = discovery_of(tmp_path, redis, "")
    for times in (1, 2):
        await redis.command(["SET", "sfr:intent", "x"])
        for _ in range(2):
            await discovery.reread()
            assert caplog.text.count("stay as they were: sfr:intent: ") == times
        await redis.command(["DEL", "sfr:intent"])
        await discovery.reread()


async def test_redis_outage_is_logged_in_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The log has the outage itself, but not that intents cannot be read then."""
    async with FakeAsyncRedis(connected=False) as redis:
        discovery = discovery_of(tmp_path, RedisClient(redis, "sfr", timeout_s=5), "")
        for _ in range(2):
            await discovery.reread()
    (told,) = caplog.messages
    assert told.startswith("Redis unavailable: ")


def scripted(tmp_path: Path, heard: Callable[[], bool], resolver: Resolver | None = None) -> Discovery:
    """Return a Discovery that tries to listen; `heard` says whether it can."""

    async def hear(_channel: str) -> AsyncIterator[None]:
        if not heard():
            raise RedisUnavailable("away")
        yield None
        await asyncio.Event().wait()

    redis: Any = SimpleNamespace(keys=Keys("sfr"), heard=hear, register=lambda _: None)
    return discovery_of(tmp_path, redis, "discover: {dns: 'x:1'}", resolver)


def test_changes_wake_the_sidecar_together(tmp_path: Path) -> None:
    """A change wakes the sidecar after a moment that gathers others; without one it wakes after its time."""

    async def main() -> None:
        discovery = scripted(tmp_path, lambda: True)
        since = asyncio.get_running_loop().time

        async def waited_s() -> float:
            start = since()
            await discovery.wait_for_change(within_s=7)
            return since() - start

        assert await waited_s() == 7
        discovery._has_changed.set()
        assert await waited_s() == pytest.approx(GATHER_S)
        assert await waited_s() == pytest.approx(7)

    timeless(main())


def test_sidecar_subscribes_again_each_second(tmp_path: Path) -> None:
    """While Redis is away, the sidecar tries exactly once a second."""
    tries: list[float] = []

    async def main() -> None:
        def heard() -> bool:
            tries.append(asyncio.get_running_loop().time())
            return False

        running = asyncio.create_task(scripted(tmp_path, heard).run())
        await asyncio.sleep(9.5)
        running.cancel()
        assert tries == list(range(10))

    timeless(main())


def test_another_answer_of_the_dns_wakes_the_sidecar(tmp_path: Path) -> None:
    """The DNS is asked every 5 s, and the same answer does not wake the sidecar."""

    async def main() -> None:
        resolver = Resolver()
        resolver.addresses = ["10.0.0.1"]
        discovery = scripted(tmp_path, lambda: False, resolver)
        running = asyncio.create_task(discovery.run())
        clock = asyncio.get_running_loop().time
        await discovery.wait_for_change(within_s=60)
        assert clock() == pytest.approx(GATHER_S)
        asyncio.get_running_loop().call_at(32, resolver.addresses.append, "10.0.0.2")
        await discovery.wait_for_change(within_s=60)
        assert clock() == pytest.approx(7 * DNS_EVERY_S + GATHER_S)
        running.cancel()

    timeless(main())


def test_unresolvable_name_is_logged_once_each_time(caplog: pytest.LogCaptureFixture) -> None:
    """The line has the reason, and the return of the name is logged, too."""

    async def main() -> None:
        caplog.set_level("INFO")
        resolver = Resolver()
        dns = DnsName("boxes.svc:1", resolver)
        for addresses in (None, None, ["10.0.0.1"], ["10.0.0.1"], ["10.0.0.1"], None, None):
            resolver.addresses = addresses
            await dns.look_up()
        assert dns.urls == ("http://10.0.0.1:1",)

        async def hang(_host: str, _port: int) -> list[str]:
            await asyncio.Event().wait()
            return []

        assert not await DnsName("slow.svc:1", hang).look_up()
        assert asyncio.get_running_loop().time() == RESOLVE_WITHIN_S

    timeless(main())
    failing = "{} cannot be resolved, its last answer stays in force: {}"
    assert caplog.messages == [
        failing.format("boxes.svc:1", "Name or service not known"),
        "boxes.svc:1 is resolved again",
        failing.format("boxes.svc:1", "Name or service not known"),
        failing.format("slow.svc:1", "no answer within 5 s"),
    ]


async def test_odd_answer_of_a_resolver_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """A bad address is logged once while it is in the answer, and any kind of error is caught."""
    resolver = Resolver()
    dns = DnsName("boxes.svc:1", resolver)
    for addresses in (["10.0.0.1", "1.2"],) * 3:
        resolver.addresses = addresses
        await dns.look_up()
    assert [line.startswith("Address passed over: ") for line in caplog.messages] == [True]

    async def odd(_host: str, _port: int) -> list[str]:
        raise UnicodeError("label too long")

    caplog.clear()
    assert not await DnsName("odd.svc:1", odd).look_up()
    assert caplog.messages == ["odd.svc:1 cannot be resolved, its last answer stays in force: label too long"]


def test_unreadable_file_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its last workers stay; of many bad lines some are logged, with the number of the others."""
    path = tmp_path / "hosts"
    put(path, "a:1\n" + "x y\n" * 10)
    hosts, known = WorkersFile(path), (Worker(A, source=Source.FILE),)
    for _ in range(2):
        hosts.reread()
    assert (
        hosts.workers,
        caplog.text.count("Line passed over"),
        "more such lines" in caplog.text,
    ) == (known, 10, False)
    put(path, "a:1\n" + "x y\n" * 11)
    hosts.reread()
    assert f"{path}: 1 more such lines" in caplog.text
    put(path, b"b:1\n\xff\n")
    for _ in range(2):
        hosts.reread()
    assert (
        hosts.workers,
        caplog.text.count(f"{path} cannot be read: it is not UTF-8"),
    ) == (known, 1)
    path.unlink()
    for _ in range(2):
        hosts.reread()
    assert (
        hosts.workers,
        caplog.text.count(f"{path} cannot be read: No such file or directory"),
    ) == (known, 1)


def test_configuration_is_read_when_it_changes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A bad configuration is logged once and changes nothing."""
    caplog.set_level("INFO")
    path = tmp_path / "config.yaml"
    put(path, "timeout: 7")
    config = ConfigFile(path)
    assert [config.reread(), config.reread()] == [None, None]
    put(path, "timeout: 123")
    first, second = config.reread(), config.reread()
    assert first is not None
    assert (first.timeout, second) == (123, None)
    put(path, "timeout: never")
    assert [config.reread(), config.reread()] == [None, None]
    assert [caplog.text.count(told) for told in ("read again: 0 workers", "Configuration not taken over")] == [1, 1]


def test_router_knows_config_and_file_without_redis(tmp_path: Path) -> None:
    """A router that starts without Redis begins with these workers, and a missing file names none."""
    put(tmp_path / "hosts", "a:1\nbad line\nd:1")
    path = tmp_path / "config.yaml"
    text = f"{{workers: [{{url: '{A}', weight: 2}}], workers_file: {tmp_path / 'hosts'}, default_max_concurrency: 3}}"
    put(path, text)
    assert known_workers(load(path)) == [Worker(A, 2, 3), Worker(D, 1, 3, Source.FILE)]
    put(path, text.replace("hosts", "none"))
    assert known_workers(load(path)) == [Worker(A, 2, 3)]


async def test_drain_of_an_unknown_worker_is_logged_once(
    tmp_path: Path, redis: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A mistyped URL drains no worker, and the log names it."""
    settings = load(Path("config.yaml"))
    job_probe = JobProbe("sidecar", configured_rules(settings), redis, probe := Probe(settings.tls))
    discovery = discovery_of(tmp_path, redis, "")
    written = Leadership(redis), Records(redis), Tenants(redis)
    historian = Historian(Counters(redis), FleetHistory(redis))
    speeds, alive = Speeds(redis), Alive(None)
    controller = Controller("me", discovery, *written, probe, job_probe, speeds, alive, historian)
    await redis.command(["SADD", "sfr:drain", "http://nobody:1/"])
    for _ in range(3):
        await discovery.reread()
        controller._warn_of_unknown_drains({A})
    assert caplog.text.count("http://nobody:1 is drained, but no such worker is in the fleet") == 1


async def test_tenants_are_those_of_the_file_with_what_is_set_over_them(tmp_path: Path, redis: RedisClient) -> None:
    """A tenant that config.yaml does not name has the rule of `default`, with what is set of it over that."""
    text = "tenants: {run-7: {weight: 3}, default: {max_waiting: 5}}"
    discovery = discovery_of(tmp_path, redis, text)
    assert discovery.tenants() is None, "it is not known yet what is set"
    await Tenants(redis).override("run-7", {"priority": 2})
    await Tenants(redis).override("new", {"weight": 4})
    await Tenants(redis).override("default", {"max_running": 9})
    await discovery.reread()
    assert discovery.tenants() == {
        "run-7": TenantRule(weight=3, priority=2),
        "default": TenantRule(max_waiting=5, max_running=9),
        "new": TenantRule(weight=4, max_waiting=5, max_running=9),
    }
    put(tmp_path / "config.yaml", "tenants: {run-7: {weight: 5}}")
    await discovery.reread()
    assert discovery.tenants() == {
        "run-7": TenantRule(weight=5, priority=2),
        "default": TenantRule(max_running=9),
        "new": TenantRule(weight=4, max_running=9),
    }


async def test_tenants_set_at_run_time_are_written_again_after_a_loss(
    tmp_path: Path, redis: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Redis forgets all; what was set stays, and what has been set since then wins."""
    discovery = discovery_of(tmp_path, redis, "")
    await Tenants(redis).override("run-7", {"priority": 2, "labels": ["gpu"]})
    await Tenants(redis).override("eval", {"weight": 2, "max_running": 3})
    await discovery.reread()
    await redis.command(["FLUSHALL"])
    await Tenants(redis).override("eval", {"weight": 9})
    await Leadership(redis).lead("me", 3)
    await discovery.reread()
    assert discovery.tenants() == {
        "eval": TenantRule(weight=9, max_running=3),
        "run-7": TenantRule(priority=2, labels=("gpu",)),
    }
    _, held = await Tenants(redis).standing()
    assert held.keys() == {"eval", "run-7"}
    assert "tenants are written again" in caplog.text


async def test_tenants_key_of_another_type_leaves_the_workers_alone(
    tmp_path: Path, redis: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """The last known settings stay in force; registrations are read as ever."""
    discovery = discovery_of(tmp_path, redis, "")
    await Tenants(redis).override("run-7", {"priority": 2})
    await discovery.reread()
    await redis.command(["SET", "sfr:tenants:intent", "x"])
    await Intents(redis).register(Registration(A))
    await discovery.reread()
    assert sources(discovery.wanted([])) == {A: Source.REGISTERED}
    assert discovery.tenants() == {"run-7": TenantRule(priority=2)}
    assert "Passed over: sfr:tenants:intent: WRONGTYPE" in caplog.text


async def test_tenants_beyond_the_limit_are_named_once(
    tmp_path: Path, redis: RedisClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Those of config.yaml have their places first."""
    names = ", ".join(f"t{number:03}: " for number in range(MAX_TENANTS - 1))
    discovery = discovery_of(tmp_path, redis, f"tenants: {{{names}}}")
    for name in ("a", "b", "c"):
        await Tenants(redis).override(name, {"weight": 2})
    for _ in range(3):
        await discovery.reread()
        rules = discovery.tenants()
        assert rules is not None
        assert (len(rules), "a" in rules, "b" in rules) == (MAX_TENANTS, True, False)
    assert caplog.text.count("beyond the first 1000 with a rule: b, c") == 1
