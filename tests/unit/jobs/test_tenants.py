"""A tenant's way through the dispatcher: its line, its rule, and what its clients are told."""

import json
from typing import Any

import msgspec
import pytest

from router.http.headers import read_worker_head
from router.http.response import Phase, Response
from router.policy.placement import ANYWHERE, Placement
from router.policy.tenants import MAX_TENANTS, OTHER, TenantRule
from router.scheduling.pending import NoRoom, NoWorkers, TenantFull
from tests.support.timeless import timeless
from tests.unit.jobs.test_dispatcher import Bench, Workers, fails, says

RULES = {"default": TenantRule(max_waiting=9, client_budget=20.0), "run-7": TenantRule(max_waiting=3)}


@pytest.mark.parametrize(
    ("tenant", "placement"), [("", ANYWHERE), ("default", ANYWHERE), ("run-7", Placement("run-7"))]
)
def test_job_waits_in_its_tenant_s_line_and_its_answer_names_it(tenant: str, placement: Placement) -> None:
    """The tenant `default` has the line of jobs that name none. Those answers tell of no tenant."""

    async def law() -> None:
        head = read_worker_head(200, [(b"content-type", b"application/json"), (b"x-router-tenant", b"the worker's")])
        bench = Bench(Workers(Response(head, b'{"status": "Success"}')), tenant=tenant)
        answer = await bench.run()
        assert [asked.placement for asked in bench.leases.asked] == [placement]
        assert dict(answer.headers).get(b"x-router-tenant") == (tenant.encode() or None)
        assert json.loads(answer.body)["router_metadata"].get("tenant") == (tenant or None)

    timeless(law())


def test_retry_waits_in_the_same_line() -> None:
    """A retry counts to the tenant whose job it is."""

    async def law() -> None:
        bench = Bench(Workers(fails(Phase.DIED), says()), tenant="run-7")
        assert (await bench.run()).status == 200
        assert [asked.placement for asked in bench.leases.asked] == [Placement("run-7")] * 2

    timeless(law())


@pytest.mark.parametrize(
    ("reason", "tenant", "tenants", "detail"),
    [
        (TenantFull(), "run-7", RULES, "3 jobs of tenant run-7 wait already"),
        (TenantFull(), "run-8", RULES, "9 jobs of tenant run-8 wait already"),
        (TenantFull(), "run-7", {}, "Too many jobs of tenant run-7 wait already"),
        (NoWorkers(), "run-7", {}, "No healthy workers available"),
    ],
)
def test_refusal_names_the_tenant(reason: NoRoom, tenant: str, tenants: Any, detail: str) -> None:
    """A tenant without a rule of its own has the default one; each answer to a named tenant has the header field."""

    async def law() -> None:
        bench = Bench(tenant=tenant, tenants=tenants)
        bench.leases.script = [reason]
        answer = await bench.run()
        assert (answer.status, json.loads(answer.body)["detail"]) == (503, detail)
        assert dict(answer.headers)[b"x-router-tenant"] == tenant.encode()
        assert dict(answer.headers)[b"retry-after"] == b"1"

    timeless(law())


@pytest.mark.parametrize(
    ("tenant", "budget", "waits_s"),
    [("run-7", None, 100), ("run-7", 40, 39.5), ("run-7", "job+2", 11.5), ("run-8", 40, 19.5), ("", 40, 19.5)],
)
def test_client_budget_is_the_tenant_s(tenant: str, budget: str | float | None, waits_s: float) -> None:
    """A tenant's rule says how long its clients wait. A rule that does not leaves that to config.yaml."""

    async def law() -> None:
        tenants = {**RULES, "run-7": TenantRule(client_budget=budget)}
        bench = Bench(Workers(says()), {"queue": {"timeout": 300}}, tenant=tenant, tenants=tenants)
        await bench.run()
        (asked,) = bench.leases.asked
        assert asked.wait_s == pytest.approx(waits_s, abs=0.01)

    timeless(law())


def test_names_beyond_the_most_wait_in_one_line() -> None:
    """The answer, too, names `other`; a tenant that config.yaml names keeps its own."""

    async def law() -> None:
        bench = Bench(Workers(*(says() for _ in range(MAX_TENANTS + 3))), tenants=RULES)
        names = [*(f"run-{number}" for number in range(100, 100 + MAX_TENANTS)), "late", "run-7", "run-100"]
        told = []
        for name in names:
            bench.job = msgspec.structs.replace(bench.job, tenant=name)
            told.append(dict((await bench.run()).headers)[b"x-router-tenant"].decode())
        assert told == [*names[:MAX_TENANTS], OTHER, "run-7", "run-100"]
        assert [asked.placement.tenant for asked in bench.leases.asked] == told

    timeless(law())
