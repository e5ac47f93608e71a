"""Workers join and leave by their source (file, DNS, registration) while the programs run."""

from redis.asyncio import Redis

from router.fleet.intents import Intents, Registration
from router.fleet.redis_client import RedisClient
from tests.support.eventually import eventually
from tests.support.programs import System, Valkey
from tests.support.worker import ScriptedWorker


async def _fleet(redis: Redis) -> dict[str, tuple[str, str]]:
    """Return each worker's source and health by URL."""
    fleet = {}
    for url in map(str, await redis.smembers("sfr:workers")):
        source, health = await redis.hmget(f"sfr:worker:{url}", ["source", "health"])
        fleet[url] = (str(source), str(health))
    return fleet


async def test_workers_come_and_go_by_file_dns_and_registration(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """A worker of each source is found, checked, and removed with its source, without a restart."""
    listed, resolved, added = workers
    hosts = system.folder / "hosts"
    hosts.write_text(f"127.0.0.1:{listed.port}/run_code  # rack 1\nno.host:port\n")
    system.configure([], workers_file=str(hosts), discover={"dns": f"localhost:{resolved.port}"})
    async with system.sidecar() as sidecar, system.router(1) as router, valkey.client() as redis:
        intents = Intents(RedisClient(redis, "sfr", timeout_s=5))
        await intents.register(Registration(added.url, max_concurrency=2, ttl_s=60))
        await router.sees(healthy=3)
        assert await _fleet(redis) == {
            listed.url: ("file", "healthy"),
            resolved.url: ("dns", "healthy"),
            added.url: ("registered", "healthy"),
        }
        assert f"{hosts}:2: expected a host, host:port or URL" in sidecar.output
        await intents.remove(added.url)
        await eventually(lambda: _is_gone(redis, added), what="the worker's removal")
        await intents.register(Registration(added.url, ttl_s=60))
        await eventually(lambda: redis.sismember("sfr:workers", added.url), what="its return")
        await redis.pexpire(f"sfr:registered:{added.url}", 1)
        await eventually(lambda: _is_gone(redis, added), what="its removal after its TTL")
        hosts.write_text("")
        await eventually(lambda: _is_gone(redis, listed), what="the removal of the worker taken off the list")
        assert (await _fleet(redis)).keys() == {resolved.url}


async def _is_gone(redis: Redis, worker: ScriptedWorker) -> bool:
    return not await redis.sismember("sfr:workers", worker.url)


async def _has_cap(redis: Redis, worker: ScriptedWorker, cap: str) -> bool:
    return await redis.hget(f"sfr:worker:{worker.url}", "max_concurrency") == cap


async def test_registered_fleet_outlives_a_redis_that_lost_everything(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """After Redis lost everything, registrations, drains and caps are written again, and no worker leaves meanwhile."""
    system.configure([], health_check_interval=60)
    async with system.sidecar() as sidecar, system.router(1) as router, valkey.client() as redis:
        intents = Intents(RedisClient(redis, "sfr", timeout_s=5))
        for worker in workers:
            await intents.register(Registration(worker.url))
        await intents.override(workers[0].url, {"max_concurrency": 3})
        await intents.drain(workers[1].url)
        await router.sees(healthy=2)
        await redis.flushall()
        await eventually(lambda: redis.sismember("sfr:drain", workers[1].url), what="the drain restored")
        await router.sees(healthy=2)
        await eventually(lambda: _has_cap(redis, workers[0], "3"), what="the cap written again")
        assert len((await intents.read()).registrations) == 3
    assert "has left the fleet" not in sidecar.output
