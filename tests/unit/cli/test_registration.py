"""A worker's registration with a scripted router on a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from router.cli.agent.registration import Lifecycle, Registrar
from router.cli.failure import Exit, Failed
from router.cli.router_client import RouterClient
from router.fleet.model import Health
from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.worker import Exchange, ScriptedWorker
from tests.unit.cli.test_fleet_commands import worker as shown_worker

URL = "http://node1:8080"
LEFT = ["POST drain", "DELETE "]


@dataclass
class Steered:
    """A router's admin API for one worker; the next calls fail as `fails` says."""

    draining: bool = False
    running: int = 0
    fails: list[int | str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    async def __call__(self, exchange: Exchange) -> None:
        """Answer one request and record it."""
        path = exchange.request.target.partition("?")[0].removeprefix("/admin/workers").strip("/")
        self.calls.append(f"{exchange.request.method} {path}")
        failure = self.fails.pop(0) if self.fails else None
        if failure == "lost":
            exchange.reset()
        elif failure is not None:
            await exchange.answer(int(failure), {"detail": "no"})
        elif exchange.request.method == "DELETE":
            await exchange.answer(204, b"")
        else:
            self.draining = {"drain": True, "resume": False}.get(path, self.draining)
            shown = shown_worker(URL, Health.HEALTHY, draining=self.draining)
            await exchange.answer(200, json.loads(shown.model_copy(update={"running": self.running}).model_dump_json()))

    @property
    def steps(self) -> list[str]:
        """All requests except renewals."""
        return [call for call in self.calls if call != "POST "]


@dataclass
class RegistrarRun:
    """A running registrar."""

    lifecycle: Lifecycle
    registrar: Registrar
    refusals: list[Failed | None]
    done: asyncio.Task[None]

    async def leaves(self) -> None:
        """Tell the registrar to leave, and wait until it has."""
        self.lifecycle.leaving.set()
        await asyncio.wait_for(self.done, 20)


@asynccontextmanager
async def registered(router_url: str, ttl_s: float = 30) -> AsyncIterator[RegistrarRun]:
    """Keep a worker registered while the block runs."""
    lifecycle, refusals = Lifecycle(), list[Failed | None]()
    router = RouterClient(router_url, "token", 5)
    registrar = Registrar(
        router, {"url": URL, "weight": 1}, ttl_s, lifecycle, lambda: refusals.append(registrar.refusal)
    )
    done = asyncio.create_task(registrar.run())
    try:
        yield RegistrarRun(lifecycle, registrar, refusals, done)
    finally:
        lifecycle.leaving.set()
        lifecycle.hurry.set()
        await done


async def test_worker_is_registered_drained_and_removed_when_no_job_runs() -> None:
    """The steps come in this order. A drain that Redis has lost is sent again, and so may be the count of its jobs."""
    steered = Steered(running=2)
    async with ScriptedWorker(script=steered) as router, registered(router.url) as run:
        await asyncio.wait_for(run.lifecycle.joined.wait(), 20)
        assert (steered.steps, json.loads(router.jobs[0].body)["ttl_seconds"]) == ([], 30)
        run.lifecycle.leaving.set()
        await eventually(lambda: steered.draining, what="the drain")
        steered.draining, steered.running = False, 0
        await eventually(lambda: steered.draining, what="the drain again")
        renewals = steered.calls.count("POST ")
        await eventually(lambda: steered.calls.count("POST ") > renewals + 1, what="more looks")
        assert not run.done.done()
        await run.leaves()
        assert steered.steps == ["POST drain", *LEFT]


async def test_hurry_removes_the_worker_at_once() -> None:
    """There is no drain, because the command is killed at once."""
    steered = Steered(running=2)
    async with ScriptedWorker(script=steered) as router, registered(router.url) as run:
        await asyncio.wait_for(run.lifecycle.joined.wait(), 20)
        run.lifecycle.hurry.set()
        await run.leaves()
        assert steered.steps == LEFT[1:]


async def test_drain_of_an_earlier_agent_is_lifted_and_an_operator_s_is_not() -> None:
    """A drain at the first registration is an earlier agent's; a later one is an operator's."""
    steered = Steered(draining=True)
    async with ScriptedWorker(script=steered) as router, registered(router.url, ttl_s=0.3) as run:
        await asyncio.wait_for(run.lifecycle.joined.wait(), 20)
        assert (steered.steps, steered.draining) == (["POST resume"], False)
        steered.draining, seen = True, len(steered.calls)
        await eventually(lambda: len(steered.calls) > seen + 3, what="renewals")
        assert steered.draining


@pytest.mark.parametrize("failure", ["lost", 503])
async def test_lost_answer_may_be_a_registration(failure: int | str) -> None:
    """After a lost answer the worker may be registered, so it is drained and removed as usual."""
    steered = Steered(fails=[failure])
    async with ScriptedWorker(script=steered) as router, registered(router.url) as run:
        await eventually(lambda: bool(steered.calls), what="the first call")
        await run.leaves()
        assert steered.steps == LEFT
        assert run.refusals == []


async def test_router_that_was_never_reached_is_not_waited_for() -> None:
    """A router that was never reached has no registration, so there is nothing to drain."""
    async with registered(f"http://127.0.0.1:{free_port()}") as run:
        await asyncio.sleep(0)
        await asyncio.wait_for(run.leaves(), 5)
        assert not run.lifecycle.joined.is_set()


@pytest.mark.parametrize(("status", "reason"), [(403, Exit.FAILED), (401, Exit.NO_TOKEN), (422, Exit.FAILED)])
async def test_refusal_is_reported_and_cleared_when_the_worker_is_registered(status: int, reason: Exit) -> None:
    """The registrar reports it and tries again; the agent decides what follows."""
    steered = Steered(fails=[status])
    async with ScriptedWorker(script=steered) as router, registered(router.url) as run:
        await asyncio.wait_for(run.lifecycle.joined.wait(), 20)
        assert [refusal.status for refusal in run.refusals if refusal] == [reason]
        assert run.registrar.refusal is None
