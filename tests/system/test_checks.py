"""Health checks judge a worker by the jobs it finishes, not by pings alone."""

from contextlib import AsyncExitStack

from redis.asyncio import Redis

from tests.support.eventually import eventually
from tests.support.load import post_jobs, steady_load
from tests.support.programs import System, Valkey
from tests.support.worker import Exchange, Gate, Received, Script, ScriptedWorker, always, hang, reset, takes, well

# The time limit of checks that hang: two of them take longer than any pause between the jobs of a steady load.
SHORT = 0.4


def quick(timeout: float = 5.0, **health_check: object) -> dict[str, object]:
    """Return settings with frequent checks."""
    return {"health_check_interval": 0.05, "health_check": {"timeout": timeout, **health_check}}


STUCK = always(200, {"status": "SandboxError", "message": "no lock\nin sight"})


def is_check(request: Received) -> bool:
    """Whether the sidecar sent this request."""
    return request.headers["user-agent"] == "sandboxfusion-router-sidecar"


def checks(worker: ScriptedWorker) -> int:
    """Return how many of the worker's jobs came from the sidecar."""
    return sum(is_check(job) for job in worker.jobs)


def checked_by(script: Script, *, else_by: Script = well) -> Script:
    """Return a script that treats the sidecar's jobs one way and clients' another."""

    async def choose(exchange: Exchange) -> None:
        await (script if is_check(exchange.request) else else_by)(exchange)

    return choose


async def more_pings(worker: ScriptedWorker, count: int) -> None:
    """Wait for `count` more pings of the worker."""
    pings = worker.pings + count
    await eventually(lambda: worker.pings >= pings, what=f"{count} more pings")


async def held(redis: Redis, worker: ScriptedWorker, field: str) -> str:
    """Return a field of the worker's record in Redis."""
    return str(await redis.hget(f"sfr:worker:{worker.url}", field))


async def turns(redis: Redis, worker: ScriptedWorker, health: str) -> None:
    """Wait until the sidecar has found this health of the worker."""

    async def is_so() -> bool:
        return await held(redis, worker, "health") == health

    await eventually(is_so, what=f"{worker.url} {health}")


async def test_jobs_outvote_hanging_pings(system: System, workers: list[ScriptedWorker], valkey: Valkey) -> None:
    """A worker whose pings hang stays healthy while it finishes jobs; one that does neither becomes unhealthy."""
    busy, dead, third = workers
    system.configure([worker.url for worker in workers], **quick(SHORT))
    async with system.sidecar() as sidecar, system.router(1) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        async with steady_load(router.url, 4) as answers:
            await eventually(lambda: answers, what="load")
            busy.ping = dead.ping = hang
            dead.script = reset
            await turns(redis, dead, "unhealthy")
            await more_pings(busy, 4)
            assert (await held(redis, busy, "health"), await held(redis, busy, "failures")) == ("healthy", "0")
            said = await held(redis, busy, "last_error")
            assert said.startswith("timed out after 0.4 s, but it finished a job 0.")
        await turns(redis, busy, "unhealthy")
        assert await held(redis, busy, "last_error") == "timed out after 0.4 s"
        assert await held(redis, third, "health") == "healthy"
        assert {answer.status for answer in answers} == {200}
    assert sidecar.output.count("is unhealthy after 2 failed checks: timed out after 0.4 s\n") == 2


async def test_deep_checks_take_out_a_worker_that_fails_every_job(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """A worker that fails deep checks is unhealthy, and only a job that it completes makes it healthy again."""
    stuck, *_ = workers
    system.configure([worker.url for worker in workers], **quick(deep=True))
    async with system.sidecar() as sidecar, system.router(1) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        stuck.script = STUCK
        await turns(redis, stuck, "unhealthy")
        await router.sees(healthy=2)
        await more_pings(stuck, 4)
        assert await held(redis, stuck, "health") == "unhealthy"
        assert {answer.status for answer in await post_jobs(router.url, 30, 5)} == {200}
        assert len(stuck.jobs) == checks(stuck)
        stuck.script = well
        await router.sees(healthy=3)
    said = "is unhealthy after 2 failed checks: answers pings, but failed a job: SandboxError: no lock in sight"
    assert f"Worker {stuck.url} {said}" in sidecar.output


async def test_last_error_names_each_way_to_fail_a_deep_check(system: System, valkey: Valkey) -> None:
    """`last_error` describes what arrived instead of the job's result."""
    failed = "answers pings, but failed a job: "
    told = {
        always(500): f"{failed}returned 500: X",
        always(200, b"<html>"): f"{failed}answered b'<html>' instead of a result",
        always(200, {"status": "Failed", "message": "", "run_result": {"stdout": "2"}}): (
            f"{failed}Failed, and printed '2' instead of '1\\n'"
        ),
        reset: f"{failed}gave no whole answer: ",
        hang: "answers pings and timed out on a job after 0.4 s",
    }
    async with AsyncExitStack() as running:
        workers = [await running.enter_async_context(ScriptedWorker(script)) for script in told]
        system.configure([worker.url for worker in workers], **quick(SHORT, deep=True))
        async with system.sidecar(), valkey.client() as redis:
            for worker, error in zip(workers, told.values(), strict=True):
                await turns(redis, worker, "unhealthy")
                assert (await held(redis, worker, "last_error")).startswith(error)


async def test_deep_checks_keep_to_the_cap(system: System, workers: list[ScriptedWorker], valkey: Valkey) -> None:
    """A deep check takes a free slot of the worker; a full worker gets only pings."""
    worker, *_ = workers
    gate = Gate()
    for each in workers:
        each.script = takes(0.02)
    system.configure([each.url for each in workers], default_max_concurrency=1, **quick(deep=True, deep_every=1))
    async with system.sidecar(), system.router(2) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        async with steady_load(router.url, 2) as answers:
            await eventually(lambda: min(map(checks, workers)) > 3, what="deep checks among the jobs")
            worker.script = checked_by(takes(0.02), else_by=gate)
            jobs = len(worker.jobs) - checks(worker)
            await eventually(lambda: len(worker.jobs) - checks(worker) > jobs, what="a job that keeps the only slot")
            before = checks(worker)
            await more_pings(worker, 6)
            assert checks(worker) == before
            gate.open()
            await eventually(lambda: checks(worker) > before, what="the next deep check")
        assert {answer.status for answer in answers} == {200}
        assert [await held(redis, each, "health") for each in workers] == ["healthy"] * 3
    assert [each.most_at_once for each in workers] == [1, 1, 1]


async def test_finished_job_outvotes_a_late_deep_check_but_no_failed_one(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Under load, a worker that only hangs on checks stays healthy; one that answers them wrongly does not."""
    late, wrong, _ = workers
    system.configure([worker.url for worker in workers], **quick(SHORT, deep=True, deep_every=1))
    async with system.sidecar() as sidecar, system.router(1) as router, valkey.client() as redis:
        await router.sees(healthy=3)
        async with steady_load(router.url, 4) as answers:
            await eventually(lambda: answers, what="load")
            late.script, wrong.script = checked_by(hang), checked_by(STUCK)
            await turns(redis, wrong, "unhealthy")
            before = checks(late)
            await eventually(lambda: checks(late) > before + 3, what="deep checks")
            said = await held(redis, late, "last_error")
            assert said.startswith("answers pings and timed out on a job after 0.4 s, but it finished a job 0.")
            assert f"{late.url} is unhealthy" not in sidecar.output


async def test_without_deep_the_sidecar_runs_no_job(
    system: System, workers: list[ScriptedWorker], valkey: Valkey
) -> None:
    """Unless `deep` is set, the sidecar only pings."""
    worker = workers[0]
    worker.script = STUCK
    system.configure([worker.url], **quick())
    async with system.sidecar(), valkey.client() as redis:
        await more_pings(worker, 12)
        assert await held(redis, worker, "health") == "healthy"
        assert not await redis.keys("sfr:leases:*")
    assert not worker.jobs
