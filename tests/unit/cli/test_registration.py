"""A worker's place in the fleet, kept at a scripted router on a real socket."""

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
    """What a router's admin API does with one worker; `fails` is what happens to the next calls instead."""

    draining: bool = False
    running: int = 0
    fails: list[int | str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    async def __call__(self, exchange: Exchange) -> None:
        """Do what is asked, and note it."""
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
        """What was asked, but for renewals."""
        return [call for call in self.calls if call != "POST "]


@dataclass
class Kept:
    """A place under way."""

    lifecycle: Lifecycle
    place: Registrar
    refusals: list[Failed | None]
    done: asyncio.Task[None]

    async def leaves(self) -> None:
        """Give the place up, and wait until that is done."""
        self.lifecycle.leaving.set()
        await asyncio.wait_for(self.done, 20)


@asynccontextmanager
async def kept(router_url: str, ttl_s: float = 30) -> AsyncIterator[Kept]:
    """Keep a place while the block runs."""
    lifecycle, refusals = Lifecycle(), list[Failed | None]()
    router = RouterClient(router_url, "token", 5)
    place = Registrar(router, {"url": URL, "weight": 1}, ttl_s, lifecycle, lambda: refusals.append(place.refusal))
    done = asyncio.create_task(place.run())
    try:
        yield Kept(lifecycle, place, refusals, done)
    finally:
        lifecycle.leaving.set()
        lifecycle.hurry.set()
        await done


async def test_place_is_kept_drained_and_given_up_when_nothing_runs() -> None:
    """In this order; and drained again where a router has forgotten that."""
    steered = Steered(running=2)
    async with ScriptedWorker(script=steered) as router, kept(router.url) as place:
        await asyncio.wait_for(place.lifecycle.joined.wait(), 20)
        assert (steered.steps, json.loads(router.jobs[0].body)["ttl_seconds"]) == ([], 30)
        place.lifecycle.leaving.set()
        await eventually(lambda: steered.draining, what="the drain")
        steered.draining = False
        await eventually(lambda: steered.draining, what="the drain again")
        assert not place.done.done()
        steered.running = 0
        await place.leaves()
        assert steered.steps == ["POST drain", *LEFT]


async def test_place_is_given_up_at_once_in_a_hurry() -> None:
    """No drain: whoever is in a hurry has no worker any more."""
    steered = Steered(running=2)
    async with ScriptedWorker(script=steered) as router, kept(router.url) as place:
        await asyncio.wait_for(place.lifecycle.joined.wait(), 20)
        place.lifecycle.hurry.set()
        await place.leaves()
        assert steered.steps == LEFT[1:]


async def test_predecessor_s_drain_is_lifted_and_an_operator_s_is_not() -> None:
    """The former is found at the first registration."""
    steered = Steered(draining=True)
    async with ScriptedWorker(script=steered) as router, kept(router.url, ttl_s=0.3) as place:
        await asyncio.wait_for(place.lifecycle.joined.wait(), 20)
        assert (steered.steps, steered.draining) == (["POST resume"], False)
        steered.draining, seen = True, len(steered.calls)
        await eventually(lambda: len(steered.calls) > seen + 3, what="renewals")
        assert steered.draining


@pytest.mark.parametrize("failure", ["lost", 503])
async def test_what_a_router_may_have_heard_counts(failure: int | str) -> None:
    """Its answer was lost, so the worker may be one: it is drained and given up like any."""
    steered = Steered(fails=[failure])
    async with ScriptedWorker(script=steered) as router, kept(router.url) as place:
        await eventually(lambda: bool(steered.calls), what="the first call")
        await place.leaves()
        assert steered.steps == LEFT
        assert place.refusals == []


async def test_router_that_never_was_there_is_not_waited_for() -> None:
    """Nobody has heard of the worker: there is nothing to drain."""
    async with kept(f"http://127.0.0.1:{free_port()}") as place:
        await asyncio.sleep(0)
        await asyncio.wait_for(place.leaves(), 5)
        assert not place.lifecycle.joined.is_set()


@pytest.mark.parametrize(("status", "reason"), [(403, Exit.FAILED), (401, Exit.NO_TOKEN), (422, Exit.FAILED)])
async def test_refusal_is_told_and_forgotten_once_the_worker_is_taken(status: int, reason: Exit) -> None:
    """The agent decides what follows; the place goes on asking."""
    steered = Steered(fails=[status])
    async with ScriptedWorker(script=steered) as router, kept(router.url) as place:
        await asyncio.wait_for(place.lifecycle.joined.wait(), 20)
        assert [refusal.status for refusal in place.refusals if refusal] == [reason]
        assert place.place.refusal is None
