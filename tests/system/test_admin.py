"""The admin API changes the fleet while the programs run: real gunicorn, sidecar, Valkey and sockets."""

import asyncio
import socket
import sys
from base64 import b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from yarl import URL

from router.processes import free_port
from tests.support.eventually import eventually
from tests.support.load import JOB, post_job, post_jobs, steady_load
from tests.support.programs import Program, Router, System
from tests.support.scrape import scrape
from tests.support.worker import Gate, ScriptedWorker

TOKEN = "a-token"
NOBODY = "http://127.0.0.1:1"


@dataclass
class Admin:
    """An operator with curl; `ask` returns status and body."""

    session: aiohttp.ClientSession
    base: str

    async def ask(
        self,
        method: str,
        path: str = "",
        url: str | None = None,
        body: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, Any]:
        """Send one request to /admin/workers."""
        async with self.session.request(
            method,
            f"{self.base}/admin/workers{path}",
            params={} if url is None else {"url": url},
            json=body,
            headers=headers,
        ) as response:
            return response.status, await response.json() if response.status != 204 else None


@asynccontextmanager
async def operator(base: str, token: str | None = TOKEN, unix: Path | None = None) -> AsyncIterator[Admin]:
    """An operator of the router at `base`, over the Unix socket `unix` if one is given."""
    connector = aiohttp.UnixConnector(str(unix)) if unix else aiohttp.TCPConnector(force_close=True)
    headers = {"authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
        yield Admin(session, base)


def served_by(workers: list[ScriptedWorker]) -> list[int]:
    """Return how many jobs each worker has received."""
    return [len(worker.jobs) for worker in workers]


async def test_fleet_is_added_weighed_drained_and_removed_at_run_time(
    system: System, workers: list[ScriptedWorker]
) -> None:
    """A change by the admin API holds from its answer on, and outlives a reread of config.yaml."""
    first, second, third = workers
    system.env["ADMIN_TOKEN"] = TOKEN
    settings: dict[str, Any] = {"admin": {"allowed_workers": ["127.0.0.0/8"]}, "health_check_interval": 60}
    system.configure([first.url], **settings)
    async with system.sidecar() as sidecar, system.router(2) as router, operator(router.url) as admin:
        await router.sees(healthy=1)

        status, added = await admin.ask("POST", body={"url": second.url, "weight": 2, "max_concurrency": 4})
        assert (status, added["registered"], added["expires_in_seconds"]) == (201, True, None)
        again = {"url": second.url, "weight": 2, "max_concurrency": 4, "ttl_seconds": 60}
        status, added = await admin.ask("POST", body=again)
        assert (status, 0 < added["expires_in_seconds"] <= 60) == (200, True)
        await admin.ask("POST", body={"url": third.url})
        await router.sees(healthy=3)
        assert (await admin.ask("GET", url=second.url))[1][0]["source"] == "registered"
        assert (await admin.ask("GET", url=NOBODY)) == (200, [])
        await eventually(lambda: _reaches(router, second), what="the first job on a worker with a cap")
        before = served_by(workers)
        await post_jobs(router.url, 40, 1)
        assert [now - then for now, then in zip(served_by(workers), before, strict=True)] == [10, 20, 10]

        status, changed = await admin.ask("PATCH", url=first.url, body={"weight": 3, "max_concurrency": 7})
        assert (status, changed["overrides"]) == (200, {"weight": 3, "max_concurrency": 7})
        await eventually(lambda: _is(admin, first, weight=3, max_concurrency=7), what="the new weight and cap")
        system.configure([{"url": first.url, "weight": 5}], **settings)
        await eventually(lambda: "read again" in sidecar.output, what="the reread")
        await admin.ask("PATCH", url=first.url, body={"max_concurrency": None})
        await eventually(lambda: _is(admin, first, weight=3, max_concurrency=None), what="the removed cap")

        async with steady_load(router.url, 8) as answers:
            await eventually(lambda: len(answers) > 100, what="load")
            status, drained = await admin.ask("POST", "/drain", url=first.url)
            assert (status, drained["draining"], drained["health"]) == (200, True, "draining")
            await eventually(lambda: _is(admin, first, running=0), what="the end of its jobs")
            goal, had = len(answers) + 200, len(first.jobs)
            await eventually(lambda: len(answers) > goal, what="more load")
            assert len(first.jobs) == had
            status, resumed = await admin.ask("POST", "/resume", url=first.url)
            assert (status, resumed["draining"], resumed["health"]) == (200, False, "healthy")
            await eventually(lambda: len(first.jobs) > had, what="jobs again")
            assert (await admin.ask("DELETE", url=second.url))[0] == 204
            await eventually(lambda: _is_gone(admin, second), what="the worker's removal")
        assert {answer.status for answer in answers} == {200}
        assert f"Worker {first.url} drained, by 127.0.0.1" in router.output
        assert TOKEN not in router.output + sidecar.output


async def _reaches(router: Router, worker: ScriptedWorker) -> bool:
    await post_job(router.url)
    return bool(worker.jobs)


async def _is(admin: Admin, worker: ScriptedWorker, **fields: object) -> bool:
    _, (shown,) = await admin.ask("GET", url=worker.url)
    return {name: shown[name] for name in fields} == fields


async def _is_gone(admin: Admin, worker: ScriptedWorker) -> bool:
    return worker.url not in [shown["url"] for shown in (await admin.ask("GET"))[1]]


async def _posted(base: str, body: str) -> int:
    """Return the status of a registration with this body."""
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    url = f"{base}/admin/workers"
    async with aiohttp.ClientSession(headers=headers) as session, session.post(url, data=body.encode()) as answer:
        assert "NaN" not in await answer.text()
        return answer.status


async def test_refused_changes_name_their_reason(system: System, workers: list[ScriptedWorker]) -> None:
    """Changes without the admin token get 401 before their body is read; each other refusal names its reason."""
    first, second, _ = workers
    system.env["ADMIN_TOKEN"] = TOKEN
    hosts = system.folder / "hosts"
    hosts.write_text(second.url)
    system.configure([first.url], workers_file=str(hosts), admin={"allowed_workers": ["*.svc"]})
    async with system.sidecar(), system.router(1) as router:
        await router.sees(healthy=2)
        for token in (None, "another"):
            async with operator(router.url, token) as stranger:
                assert (await stranger.ask("GET"))[0] == 200
                for method, path in (
                    ("POST", ""),
                    ("DELETE", ""),
                    ("PATCH", ""),
                    ("POST", "/drain"),
                    ("POST", "/resume"),
                ):
                    status, body = await stranger.ask(method, path, body={"not": "read"})
                    assert (status, body["detail"]) == (
                        401,
                        "Changes need the admin token, as `Authorization: Bearer TOKEN`",
                    )
        async with operator(router.url) as admin:
            status, body = await admin.ask("POST", body={"url": "http://169.254.169.254/"})
            wanted = "http://169.254.169.254: admin.allowed_workers in config.yaml allows no 169.254.169.254"
            assert (status, body["detail"]) == (403, wanted)
            status, body = await admin.ask("DELETE", url=first.url)
            assert (status, body["detail"]) == (
                409,
                f"{first.url} stands in config.yaml: take it out there, or drain it",
            )
            status, body = await admin.ask("DELETE", url=second.url)
            assert (status, "workers_file" in body["detail"]) == (409, True)
            for method, path in (("DELETE", ""), ("PATCH", ""), ("POST", "/drain"), ("POST", "/resume")):
                status, body = await admin.ask(method, path, url=NOBODY, body={"weight": 1})
                assert (status, body["detail"]) == (404, f"{NOBODY} is not in the fleet")
            a = "http://a.svc"
            bodies: list[object] = [{"url": "x"}, {"url": a, "weight": 0}, {"url": a, "ttl": 5}, {}, []]
            assert {(await admin.ask("POST", body=body))[0] for body in bodies} == {422}
            # Written as text, because Python's json also accepts values that JSON does not have.
            for ttl in (
                "NaN",
                "Infinity",
                "-Infinity",
                "1e16",
                "1e400",
                "0",
                "-1",
                "1e-9",
                "9" * 400,
                '"5"',
                "true",
                "[[]]",
            ):
                text = f'{{"url": "{a}", "ttl_seconds": {ttl}}}'
                assert await _posted(router.url, text) == 422, ttl
            for text in ('{"\\ud800": 1}', '{"url": "\\ud800"}', '{"url": "http://a..b"}', "nul"):
                assert await _posted(router.url, text) == 422, text
            assert await _posted(router.url, "[" * 100_000) in {400, 422}
            bodies = [{}, {"weight": 101}, {"weight": "2"}, {"cap": 1}]
            assert {(await admin.ask("PATCH", url=first.url, body=body))[0] for body in bodies} == {422}


async def test_allow_loopback_lets_this_host_change_the_fleet_without_a_token(
    system: System, workers: list[ScriptedWorker]
) -> None:
    """Only clients on loopback or a Unix socket are admitted; a header that claims to be local does not help."""
    url = workers[0].url
    path = Path(f"/tmp/sfr-{free_port()}.sock")  # a socket's path is short
    system.configure([url])
    system.env["FORWARDED_ALLOW_IPS"] = "*"
    async with system.router(1, f"unix:{path}") as router, operator(router.url, None) as admin:
        await router.sees_redis("available")
        status, body = await admin.ask("POST", "/drain", url=url)
        wanted = "Changes need an admin token, and none is set; set ADMIN_TOKEN for the router"
        assert (status, body["detail"]) == (403, wanted)
    system.configure([url], admin={"allow_loopback": True})
    outside = _own_address()
    async with system.router(1, f"unix:{path}", f"{outside}:{(port := free_port())}") as router:
        await router.sees_redis("available")
        async with operator(router.url, None) as admin:
            assert (await admin.ask("POST", "/drain", url=url))[0] == 200
            for headers in (
                {"x-forwarded-for": "127.0.0.1"},
                {"origin": "http://evil.example"},
                {"host": "evil.example"},
            ):
                assert (await admin.ask("POST", "/drain", url=url, headers=headers))[0] == 403
        async with operator("http://sfr", None, path) as admin:
            assert (await admin.ask("POST", "/resume", url=url))[0] == 200
        async with operator(f"http://{outside}:{port}", None) as admin:
            for headers in ({}, {"x-forwarded-for": "127.0.0.1"}, {"host": "localhost"}):
                status, body = await admin.ask("POST", "/drain", url=url, headers=headers)
                assert (status, "from this host alone" in body["detail"]) == (403, True)
    path.unlink(missing_ok=True)


def _own_address() -> str:
    """Return an address of this host that is not loopback."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this host has only loopback")
        address: str = probe.getsockname()[0]
        return address


async def test_admin_reports_an_outage_of_redis(system: System, workers: list[ScriptedWorker]) -> None:
    """Without Redis the admin API answers reads and changes with 503 and the reason, and jobs still run."""
    system.env.update(ADMIN_TOKEN=TOKEN, REDIS_URL="redis://127.0.0.1:1/0")
    system.configure([workers[0].url])
    async with system.router(1) as router, operator(router.url) as admin:
        for method, path in (("GET", ""), ("POST", "/drain")):
            status, body = await admin.ask(method, path, url=workers[0].url)
            assert (status, body["detail"].partition(":")[0]) == (503, "Redis is unavailable")
        assert (await post_job(router.url)).status == 200


async def test_jobs_need_a_key_if_keys_are_set(system: System, workers: list[ScriptedWorker]) -> None:
    """A job needs a key in one of two headers; keys reach neither workers nor the log, and new keys hold at once."""
    held = system.folder / "keys"
    held.write_text(f"{sha256(b'first-key').hexdigest()}  trainer\n")
    system.configure([worker.url for worker in workers], api_keys=str(held))
    async with system.router(2) as router, aiohttp.ClientSession() as session:

        async def status(headers: Mapping[str, str], path: str = "/run_code") -> int:
            url = URL(router.url + path, encoded=True)
            async with session.post(url, json=JOB, headers=headers) as response:
                if response.status == 401:
                    assert response.headers["www-authenticate"] == "Bearer"
                    assert "key" in (await response.json())["detail"].lower()
                return response.status

        assert await status({"authorization": "Bearer first-key"}) == 200
        assert await status({"x-api-key": "first-key", "authorization": "Bearer old-key"}) == 200
        assert await status({"X-API-Key": "first-key", "x-tenant": "me"}, "/submit") == 200
        assert await status({}) == 401
        assert await status({"x-api-key": "second-key"}) == 401
        assert await status({"authorization": "Basic first-key"}) == 401
        for path in ("/run_code?debug=1", "/run%5Fcode", "/run_code/below", "/run_jupyter"):
            assert await status({}, path) == 401
        assert await status({"x-api-key": "first-key"}, "/run_code?debug=1") == 200
        assert await status({"x-api-key": "first-key"}, "/nothing") == 404
        async with session.get(f"{router.url}/health") as response:
            assert response.status == 200
        held.write_text(f"{sha256(b'second-key').hexdigest()}\n")
        await eventually(lambda: _all_answer(router, "first-key", 401), what="the old key refused by all processes")
        await eventually(lambda: _all_answer(router, "second-key", 200), what="the new key taken by all processes")
        await eventually(lambda: _counts_refused(router), what="the 401s in the metrics")
    received = [got for worker in workers for got in worker.jobs]
    assert len(received) >= 4
    assert not any({"authorization", "x-api-key"} & got.headers.keys() for got in received)
    assert any(got.headers.get("x-tenant") == "me" for got in received)
    assert "-key" not in router.output


async def test_key_in_the_url_is_enough(system: System, workers: list[ScriptedWorker]) -> None:
    """A key in the URL's userinfo admits jobs and batches from aiohttp, requests and urllib3."""
    held = system.folder / "keys"
    held.write_text(sha256(b"first-key").hexdigest())
    system.configure([worker.url for worker in workers], api_keys=str(held))
    async with system.router(1) as router, aiohttp.ClientSession() as session:
        base = URL(router.url)
        for user, password, status in (("any", "first-key", 200), ("first-key", "", 200), ("first-key", "no", 401)):
            url = base.with_user(user).with_password(password)
            for _ in range(3):  # the head cache serves it from the second request on
                async with session.post(url / "run_code", json=JOB) as response:
                    assert response.status == status
            got = await asyncio.to_thread(requests.post, str(url / "run_code"), json=JOB, timeout=20)
            assert got.status_code == status
            for path in ("run_jupyter", "run%5Fcode", "run_code/batch"):
                async with session.post(URL(f"{url}/{path}", encoded=True), json=JOB) as response:
                    assert response.status == status, path
    received = [got for worker in workers for got in worker.jobs]
    assert received
    assert not any({"authorization", "x-api-key"} & got.headers.keys() for got in received)
    assert "first-key" not in router.output
    assert b64encode(b"any:first-key").decode() not in router.output


async def _counts_refused(router: Router) -> bool:
    counted = (await scrape(router.url)).values("sfr_requests_total")
    return {path for path, code, _ in counted if code == "401"} == {"/run_code", "/run_jupyter", "other"}


async def _all_answer(router: Router, key: str, status: int) -> bool:
    # Each connection reaches one process; several in a row almost surely reach all processes.
    connector = aiohttp.TCPConnector(force_close=True)
    async with aiohttp.ClientSession(connector=connector, headers={"x-api-key": key}) as session:

        async def ask() -> int:
            async with session.post(f"{router.url}/run_code", json=JOB) as response:
                return response.status

        return set(await asyncio.gather(*(ask() for _ in range(16)))) == {status}


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ({"ADMIN_TOKEN_FILE": "/nowhere"}, "ADMIN_TOKEN_FILE: /nowhere cannot be read: No such file or directory"),
        ({}, "api_keys: /nowhere cannot be read: No such file or directory"),
    ],
)
async def test_secret_that_cannot_be_read_ends_the_start(system: System, setting: dict[str, str], told: str) -> None:
    """With an unreadable secret file gunicorn and uvicorn end with status 2 and one line instead of serving."""
    system.configure([], **({} if setting else {"api_keys": "/nowhere"}))
    for program in (["gunicorn", "-c", "gunicorn.conf.py"], ["uvicorn", "router:app"]):
        argv = [sys.executable, "-m", *program]
        async with Program(argv, system.folder / program[0], {**system.env, **setting, "PORT": "0"}) as started:
            assert await started.ended(30) == 2
            assert f"configuration error: {told}" in started.output
            assert "Traceback" not in started.output


async def test_busy_worker_shows_its_running_jobs(system: System, workers: list[ScriptedWorker]) -> None:
    """`running` is the number of leases on a worker."""
    workers[0].script = gate = Gate()
    system.configure([workers[0].url])
    async with system.sidecar(), system.router(1) as router, operator(router.url, None) as admin:
        await router.sees(healthy=1)
        jobs = asyncio.create_task(post_jobs(router.url, 3, 3))
        await eventually(lambda: _is(admin, workers[0], running=3), what="three running jobs")
        gate.open()
        await jobs
        await eventually(lambda: _is(admin, workers[0], running=0), what="no running job")
