"""Whose job a request is: each source of a tenant's name, by each way in. Real sockets, no Redis."""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from router.auth.access import Access
from router.composition import create_app
from router.config.load import parse
from tests.support.files import put
from tests.support.load import JOB
from tests.support.serving import served
from tests.support.worker import ScriptedWorker, always

LONG = "x" * 64


@dataclass
class Router:
    """A router in this process, with one client's kept connection."""

    url: str
    session: aiohttp.ClientSession

    async def told(self, path: str, times: int = 3, **headers: str) -> list[tuple[int, Any]]:
        """Send the same job some times; return each answer's status, and its tenant or its error."""
        told: list[tuple[int, Any]] = []
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        for _ in range(times):
            async with self.session.post(f"{self.url}{path}", json=JOB, headers=named) as response:
                body = await response.json()
                tenant = response.headers.get("x-router-tenant")
                if response.status == 200:
                    assert body["router_metadata"].get("tenant") == tenant
                told.append((response.status, tenant if response.status == 200 else body["detail"]))
        return told


@asynccontextmanager
async def routed(worker: ScriptedWorker, **settings: object) -> AsyncIterator[Router]:
    """Route to one worker."""
    given = {"workers": [worker.url], "redis": {"url": "redis://127.0.0.1:1/0"}, **settings}
    parsed = parse(json.dumps(given), "t")
    async with (
        served(create_app(parsed, Access.load(parsed)), access_log=False) as url,
        aiohttp.ClientSession() as session,
    ):
        yield Router(url, session)


@pytest.mark.parametrize(
    ("path", "header", "tenant"),
    [
        ("/run_code", None, None),
        ("/run_code", "run-7", "run-7"),
        ("/t/run-7/run_code", None, "run-7"),
        ("/t/run-7/run_code", "another", "run-7"),
        ("/t/run-7//run_code", None, "run-7"),
        ("/t/run-7/run_code?a=b", None, "run-7"),
        ("/t/default/run_code", None, "default"),
        (f"/t/{LONG}/run_code", None, LONG),
    ],
)
async def test_url_names_the_tenant_before_the_header_does(
    worker: ScriptedWorker, path: str, header: str | None, tenant: str | None
) -> None:
    """A known head, too. The worker gets the path without the prefix, and no field of the router's own."""
    async with routed(worker) as router:
        named = await (router.told(path) if header is None else router.told(path, x_router_tenant=header))
        assert named == [(200, tenant)] * 3
    query = path.partition("?")[2]
    assert {job.target for job in worker.jobs} == {f"/run_code?{query}" if query else "/run_code"}
    assert not any("x-router" in job.head.lower() for job in worker.jobs)


@pytest.mark.parametrize("name", ["a b", "ä", "x" * 65, "a'b"])
async def test_bad_name_is_refused_by_name(worker: ScriptedWorker, name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The answer has it; no worker sees the job, and no log line the name."""
    caplog.set_level(logging.INFO)
    wanted = f"Tenant {name!r}: expected a name of 1 to 64 characters, each of A-Z a-z 0-9 . _ -"
    async with routed(worker) as router:
        assert await router.told(f"/t/{name}/run_code") == [(400, wanted)] * 3
        assert await router.told(f"/t/{name}/v1/ping", 1) == [(400, wanted)]
        assert await router.told(f"/t/{name}/run_code/batch", 1) == [(400, wanted)]
        if name.isascii():
            assert await router.told("/run_code", x_router_tenant=name) == [(400, wanted)] * 3
            assert await router.told("/run_code/batch", 1, x_router_tenant=name) == [(400, wanted)]
    assert worker.jobs == []
    assert name not in caplog.text


async def test_empty_name_is_refused(worker: ScriptedWorker) -> None:
    """A URL with an unset variable in it is told so, and does not run as somebody else's."""
    async with routed(worker) as router:
        for status, detail in await router.told("/t//run_code"):
            assert status == 400
            assert detail.startswith("Tenant ''")


async def test_percent_encoded_path_is_read_decoded(worker: ScriptedWorker) -> None:
    """`%2D` is a hyphen wherever it stands."""
    async with routed(worker) as router:
        url = URL(f"{router.url}/t/run%2D7/run%5Fcode", encoded=True)
        async with router.session.post(url, json=JOB) as response:
            assert (response.status, response.headers["x-router-tenant"]) == (200, "run-7")
    assert [job.target for job in worker.jobs] == ["/run_code"]


async def test_every_line_of_a_batch_is_the_tenant_s(worker: ScriptedWorker) -> None:
    """One request with many jobs has one tenant."""
    async with routed(worker) as router:
        line = json.dumps(JOB) + "\n"
        async with router.session.post(f"{router.url}/t/run-7/run_code/batch", data=line * 3) as response:
            lines = [json.loads(line) for line in (await response.read()).splitlines()]
    assert [line["body"]["router_metadata"]["tenant"] for line in lines] == ["run-7"] * 3
    assert [job.target for job in worker.jobs] == ["/run_code"] * 3


@pytest.mark.parametrize("path", ["", "/", "/v1/ping", "/health"])
async def test_base_url_of_a_tenant_has_what_clients_ask_for(worker: ScriptedWorker, path: str) -> None:
    """A client that only knows a tenant's address can ask whether the router is there."""
    async with routed(worker) as router:
        told = []
        for base in (router.url, f"{router.url}/t/run-7"):
            async with router.session.get(f"{base}{path}") as response:
                told.append((response.status, response.headers["content-type"]))
        assert told[0] == told[1]
        assert told[0][0] == 200


@pytest.mark.parametrize("path", ["/admin/workers", "/admin/stats", "/metrics", "/docs", "/openapi.json", "/dashboard"])
async def test_pages_and_changes_are_not_below_a_tenant_s_address(worker: ScriptedWorker, path: str) -> None:
    """A proxy that keeps back `/admin` would not know of a second way there."""
    async with routed(worker) as router, router.session.get(f"{router.url}/t/run-7{path}") as response:
        assert response.status == 404


@pytest.mark.parametrize(
    ("key", "path", "tenant"),
    [
        ("first", "/run_code", "Ada-Lovelace"),
        ("first", "/t/run-7/run_code", "Ada-Lovelace"),
        ("first", "/t/a b/run_code", "Ada-Lovelace"),
        ("second", "/t/run-7/run_code", None),
    ],
)
async def test_with_api_keys_the_key_alone_names_the_tenant(
    worker: ScriptedWorker, tmp_path: Path, key: str, path: str, tenant: str | None
) -> None:
    """Neither URL nor header lets one key's jobs count as another's; a key without a name is nobody's."""
    held = tmp_path / "keys"
    digests = [sha256(each.encode()).hexdigest() for each in ("first", "second")]
    held.write_text(f"{digests[0]} Ada Lovelace\n{digests[1]}\n")
    async with routed(worker, api_keys=str(held)) as router:
        told = await router.told(path, x_api_key=key, x_router_tenant="another")
        assert told == [(200, tenant)] * 3
        assert [status for status, _ in await router.told(path, 1, x_router_tenant="Ada-Lovelace")] == [401]


async def test_key_that_is_renamed_counts_by_its_new_name(worker: ScriptedWorker, tmp_path: Path) -> None:
    """A head that is known keeps no name that its key has lost."""
    held = tmp_path / "keys"
    digest = sha256(b"first").hexdigest()
    held.write_text(f"{digest} trainer-a\n")
    parsed = parse(
        json.dumps({"workers": [worker.url], "redis": {"url": "redis://127.0.0.1:1/0"}, "api_keys": str(held)}), "t"
    )
    access = Access.load(parsed)
    assert access.api_keys is not None
    async with served(create_app(parsed, access), access_log=False) as url, aiohttp.ClientSession() as session:
        router = Router(url, session)
        assert await router.told("/run_code", x_api_key="first") == [(200, "trainer-a")] * 3
        put(held, f"{digest} trainer-bb\n")
        access.api_keys.look()
        assert (await router.told("/run_code", x_api_key="first"))[-1] == (200, "trainer-bb")


async def test_log_line_of_a_failed_job_has_its_tenant(
    worker: ScriptedWorker, caplog: pytest.LogCaptureFixture
) -> None:
    """As text, and as the field `tenant`; a job that names nobody has neither."""
    caplog.set_level(logging.INFO)
    worker.script = always(502, b"")
    async with routed(worker) as router:
        await router.told("/t/run-7/run_code", 1)
        await router.told("/run_code", 1)
    named, unnamed = [record for record in caplog.records if record.getMessage().startswith("Job ")]
    assert vars(named)["tenant"] == "run-7"
    assert "/run_code, tenant run-7;" in named.getMessage()
    assert vars(unnamed)["tenant"] is None
    assert "tenant" not in unnamed.getMessage()
    attempts = [record for record in caplog.records if record.getMessage().startswith("Worker ")]
    assert [vars(record)["tenant"] for record in attempts] == ["run-7"] * 3 + [None] * 3
