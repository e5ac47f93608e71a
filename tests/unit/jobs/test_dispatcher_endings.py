"""Jobs whose client does not wait for the end, and bugs of the router itself."""

import asyncio
import json

import pytest
from fakeredis import FakeAsyncRedis

from router.config.settings import Settings
from router.fleet.model import Worker
from router.fleet.redis_client import RedisClient
from router.fleet.snapshot import FleetView
from router.jobs.body_budget import BodyBudget
from router.jobs.dispatcher import Dispatcher
from router.jobs.job import Job
from router.scheduling.failover import FailoverScheduler
from router.scheduling.inbox import Inbox
from router.scheduling.leases import Leases
from router.scheduling.messages import Rules
from router.telemetry.recorder import Recorder
from router.upstream.pool import OutcomeCallback, Request, WorkerPool
from tests.support.eventually import eventually
from tests.support.jobs import ADMITTED, stays
from tests.support.sizes import unknown_sizes
from tests.support.worker import Gate, ScriptedWorker

BODY = json.dumps({"code": "print(1)", "language": "python"}).encode()


class Bench:
    """A dispatcher before one worker with room for one job, without Redis."""

    def __init__(self, worker_url: str, upstream: WorkerPool | None = None) -> None:
        settings = Settings.model_validate({"workers": [worker_url], "timeout": 5})
        redis = RedisClient(FakeAsyncRedis(connected=False), "sfr", timeout_s=1)
        view = FleetView(redis, [Worker(worker_url, max_concurrency=1)])
        self.recorder = Recorder()
        self.leases = Leases(
            FailoverScheduler(redis, view, Rules(), 1, self.recorder), Inbox(redis, "p"), view, "p", self.recorder
        )
        self.upstream = upstream or WorkerPool(settings.tls)
        self.dispatcher = Dispatcher(self.leases, self.upstream, view, settings, self.recorder, unknown_sizes(view))
        self.buffers = BodyBudget(2**20)

    def job(self, client_s: float | None = None) -> Job:
        """Return a job whose client stays."""
        share = self.buffers.share()
        share.grow(len(BODY))
        return Job(b"POST", "/run_code", b"/run_code", b"", BODY, b"1", stays, share, ADMITTED, client_s)


@pytest.fixture
def worker(workers: list[ScriptedWorker]) -> ScriptedWorker:
    """The only worker."""
    return workers[0]


@pytest.fixture
def gate(worker: ScriptedWorker) -> Gate:
    """A gate that holds all jobs on the worker."""
    worker.script = gate = Gate()
    return gate


async def test_router_stops_after_the_attempts_of_clients_that_left(worker: ScriptedWorker, gate: Gate) -> None:
    """No client waits for the answer, but lease and body's bytes are held until the attempt ends."""
    bench = Bench(worker.url)
    job = bench.job()
    running = asyncio.create_task(bench.dispatcher.run(job))
    await eventually(lambda: worker.running, what="the job on its worker")
    running.cancel()
    await asyncio.wait([running])
    job.share.give_back()
    ending = asyncio.create_task(bench.dispatcher.finish())
    await asyncio.sleep(0)
    assert (ending.done(), bench.leases.load()[0], bench.buffers.held_bytes) == (False, 1, len(BODY))
    gate.open()
    await asyncio.wait_for(ending, 5)
    assert (bench.leases.load()[0], bench.buffers.held_bytes) == (0, 0)
    bench.upstream.close()


async def test_job_that_is_cancelled_while_pending_leaves_the_queue(worker: ScriptedWorker, gate: Gate) -> None:
    """The worker, which has one slot, never gets the job."""
    bench = Bench(worker.url)
    first = asyncio.create_task(bench.dispatcher.run(bench.job()))
    await eventually(lambda: worker.running, what="the first job on the worker")
    second = asyncio.create_task(bench.dispatcher.run(bench.job()))
    await eventually(lambda: bench.leases.load() == (1, 1), what="the second job in the queue")
    second.cancel()
    await asyncio.wait([second])
    assert bench.leases.load() == (1, 0)
    gate.open()
    assert (await first).status == 200
    await bench.leases.flush()
    assert (bench.leases.load(), len(worker.jobs)) == ((0, 0), 1)
    bench.upstream.close()


async def test_attempt_continues_after_its_client_s_deadline(worker: ScriptedWorker, gate: Gate) -> None:
    """The client gets 504, and the attempt keeps the lease and the body's bytes."""
    bench = Bench(worker.url)
    job = bench.job(client_s=0.7)
    answer = await bench.dispatcher.run(job)
    job.share.give_back()
    assert answer.status == 504
    assert (bench.leases.load()[0], bench.buffers.held_bytes) == (1, len(BODY))
    await asyncio.wait_for(bench.dispatcher.finish(), 5)  # a stopping router does not wait for it
    gate.open()
    await eventually(lambda: (bench.leases.load()[0], bench.buffers.held_bytes) == (0, 0), what="the attempt's end")
    bench.upstream.close()


class Broken(WorkerPool):
    """A pool with a bug."""

    def send(self, worker_url: str, request: Request, timeout_s: float, deliver: OutcomeCallback) -> None:
        """Raise an error that no code expects."""
        del request, timeout_s, deliver
        raise LookupError(worker_url)


async def test_bug_of_the_router_is_answered_and_logged(
    worker: ScriptedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """The client gets an answer that tells nothing about the program."""
    bench = Bench(worker.url, Broken(Settings.model_validate({"workers": [worker.url]}).tls))
    answer = await asyncio.wait_for(bench.dispatcher.run(bench.job()), 5)
    assert (answer.status, json.loads(answer.body)) == (500, {"detail": "Internal Server Error"})
    assert "LookupError" in caplog.text
