"""The endpoints that change the fleet: each refusal, and what they write to Redis, which is a fake."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from fakeredis import FakeAsyncRedis

from router.api.admin import create_admin
from router.api.fleet_admin import _admin_worker
from router.auth.access import AdminGate
from router.config.settings import AdminSettings
from router.fleet.intents import Intents, Override, Standing
from router.fleet.leadership import Leadership
from router.fleet.model import Ejection, Health, Source, Worker, WorkerRecord
from router.fleet.records import Records
from router.fleet.redis_client import RedisClient
from router.fleet.snapshot import FleetView
from tests.support.endpoints import ask, serving

CONFIGURED, FOUND, LISTED, NEW = (f"http://{name}:1" for name in ("config", "dns", "file", "new"))
TOKEN = "secret"
KEY = (b"authorization", b"Bearer secret")


class Desk:
    """The endpoints, for a fleet of three."""

    def __init__(self, redis: "FakeAsyncRedis", client: RedisClient, gate: AdminGate) -> None:
        self.redis, self.client = redis, client
        settings = AdminSettings(allowed_workers=("new", "config"))
        self.app = serving(create_admin(Intents(client), FleetView(client, []), settings, gate))
        self.fields: dict[bytes, bytes] = {}
        self.peer = "10.0.0.9"

    async def ask(
        self, method: str, path: str = "", url: str | None = None, body: object = None, *headers: tuple[bytes, bytes]
    ) -> tuple[int, Any]:
        """Send one request; return the status and the body."""
        params = {} if url is None else {"url": url}
        status, answer, self.fields = await ask(
            self.app, method, f"/admin/workers{path}", params, body, headers or (KEY,), self.peer
        )
        return status, answer


@pytest.fixture
async def redis() -> AsyncIterator["FakeAsyncRedis"]:
    """A fake Redis with Lua."""
    async with FakeAsyncRedis(decode_responses=True) as client:
        yield client


@pytest.fixture
async def desk(redis: "FakeAsyncRedis") -> Desk:
    """Three workers, each from another source; the one from the file is unhealthy."""
    client = RedisClient(redis, "sfr", timeout_s=5)
    term = await Leadership(client).lead("me", 60)
    assert term is not None
    records = [
        WorkerRecord(Worker(CONFIGURED, 2, 8, Source.CONFIG), Health.HEALTHY),
        WorkerRecord(Worker(FOUND, 1, None, Source.DNS), Health.HEALTHY),
        WorkerRecord(Worker(LISTED, 1, None, Source.FILE), Health.UNHEALTHY),
    ]
    await Records(client).record(term, datetime.now(UTC), records, [], changed=True)
    return Desk(redis, client, AdminGate(TOKEN, allow_loopback=False))


async def test_all_workers_or_one_are_listed(desk: Desk) -> None:
    """The list is in the order of URLs and has newly registered workers; an unknown URL gives an empty list."""
    await desk.ask("POST", body={"url": NEW, "weight": 3, "max_concurrency": 4, "ttl_seconds": 60})
    status, workers = await desk.ask("GET")
    assert (status, [worker["url"] for worker in workers]) == (200, [CONFIGURED, FOUND, LISTED, NEW])
    assert [worker["health"] for worker in workers] == ["healthy", "healthy", "unhealthy", "unknown"]
    assert [worker["registered"] for worker in workers] == [False, False, False, True]
    assert [worker["source"] for worker in workers] == ["config", "dns", "file", "registered"]
    assert (workers[3]["weight"], workers[3]["max_concurrency"]) == (3, 4)
    assert 0 < workers[3]["expires_in_seconds"] <= 60
    assert [worker["url"] for worker in (await desk.ask("GET", url=FOUND))[1]] == [FOUND]
    assert await desk.ask("GET", url="http://nobody:1") == (200, [])


async def test_worker_is_added_once_and_renewed_after_that(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """A new or changed worker gets 201 and a line in the log, a renewed one 200."""
    caplog.set_level("INFO")
    for weight, wanted in ((1, 201), (1, 200), (2, 201)):
        status, worker = await desk.ask("POST", body={"url": NEW, "weight": weight})
        assert (status, worker["weight"], worker["expires_in_seconds"]) == (wanted, weight, None)
    assert caplog.messages == [f"Worker {NEW} added, by 10.0.0.9"] * 2
    status, told = await desk.ask("POST", body={"url": "http://other:1"})
    assert (status, told["detail"]) == (403, "http://other:1: admin.allowed_workers in config.yaml allows no other")
    assert await desk.redis.smembers("sfr:registered") == {NEW}


@pytest.mark.parametrize(
    ("url", "place"), [(CONFIGURED, "config.yaml"), (FOUND, "discover.dns"), (LISTED, "workers_file")]
)
async def test_worker_of_another_source_is_not_removed(desk: Desk, url: str, place: str) -> None:
    """The 409 names its source, which would bring it back; a registration that it also has ends."""
    status, told = await desk.ask("DELETE", url=url)
    assert (status, told["detail"]) == (409, f"{url} stands in {place}: take it out there, or drain it")
    if url == CONFIGURED:
        assert (await desk.ask("POST", body={"url": url}))[0] == 201
        assert await desk.ask("DELETE", url=url) == (204, None)
        (worker,) = (await desk.ask("GET", url=url))[1]
        assert worker["registered"] is False


async def test_registered_worker_is_removed(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """The first removal gets 204, the second 404."""
    caplog.set_level("INFO")
    await desk.ask("POST", body={"url": NEW})
    assert await desk.ask("DELETE", url=NEW) == (204, None)
    assert caplog.messages[-1] == f"Worker {NEW} removed, by 10.0.0.9"
    assert await desk.ask("DELETE", url=NEW) == (404, {"detail": f"{NEW} is not in the fleet"})


async def test_worker_with_an_expired_registration_can_be_removed(desk: Desk) -> None:
    """A registration that expired before the sidecar noticed is no conflict."""
    term = await Leadership(desk.client).lead("me", 60)
    assert term is not None
    gone = [WorkerRecord(Worker(NEW, 1, None, Source.REGISTERED), Health.HEALTHY)]
    await Records(desk.client).record(term, datetime.now(UTC), gone, [], changed=True)
    assert await desk.ask("DELETE", url=NEW) == (204, None)


async def test_worker_is_drained_and_resumed(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """The answer shows the drain at once, even if this process has older data; an unhealthy worker stays unhealthy."""
    caplog.set_level("INFO")
    for path, is_draining, health in (("/drain", True, "draining"), ("/resume", False, "healthy")):
        status, worker = await desk.ask("POST", path, FOUND)
        assert (status, worker["draining"], worker["health"]) == (200, is_draining, health)
        assert await desk.redis.smembers("sfr:drain") == ({FOUND} if is_draining else set())
        word = "drained" if is_draining else "resumed"
        assert caplog.messages[-1] == f"Worker {FOUND} {word}, by 10.0.0.9"
    status, worker = await desk.ask("POST", "/drain", LISTED)
    assert (status, worker["draining"], worker["health"]) == (200, True, "unhealthy")


async def test_weight_and_cap_are_set_and_reset(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    """An absent value stays, and null restores the original one."""
    caplog.set_level("INFO")
    for changes, left in (
        ({"weight": 5}, {"weight": 5, "max_concurrency": None}),
        ({"max_concurrency": 3}, {"weight": 5, "max_concurrency": 3}),
        ({"weight": None}, {"weight": None, "max_concurrency": 3}),
    ):
        status, worker = await desk.ask("PATCH", url=CONFIGURED, body=changes)
        assert (status, worker["overrides"]) == (200, left)
        assert caplog.messages[-1] == f"Worker {CONFIGURED} set to {changes}, by 10.0.0.9"


@pytest.mark.parametrize("changes", [{}, {"weight": 0}, {"weight": 1.5}, {"max_concurrency": 0}, {"wait": 1}])
async def test_empty_or_invalid_change_is_refused(desk: Desk, changes: dict[str, object]) -> None:
    """An invalid change gets 422 and changes nothing."""
    assert (await desk.ask("PATCH", url=CONFIGURED, body=changes))[0] == 422
    assert await desk.redis.hgetall("sfr:intent") == {}


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [("DELETE", "", None), ("POST", "/drain", None), ("POST", "/resume", None), ("PATCH", "", {"weight": 2})],
)
async def test_unknown_worker_gets_404(
    desk: Desk, caplog: pytest.LogCaptureFixture, method: str, path: str, body: object
) -> None:
    """A request for an unknown worker leaves no trace in Redis or the log."""
    caplog.set_level("INFO")
    url = "http://nobody:1"
    assert await desk.ask(method, path, url, body) == (404, {"detail": f"{url} is not in the fleet"})
    assert await desk.redis.exists("sfr:drain", "sfr:intent", "sfr:registered") == 0
    assert caplog.messages == []


async def test_openapi_describes_each_refusal(desk: Desk) -> None:
    """The description names each endpoint's refusals, and the token that every change needs."""
    paths = desk.app.openapi()["paths"]
    refusals = {
        ("/admin/workers", "get"): set(),
        ("/admin/workers", "post"): {"401", "403"},
        ("/admin/workers", "patch"): {"401", "403", "404"},
        ("/admin/workers", "delete"): {"401", "403", "404", "409"},
        ("/admin/workers/drain", "post"): {"401", "403", "404"},
        ("/admin/workers/resume", "post"): {"401", "403", "404"},
    }
    for (path, method), statuses in refusals.items():
        described = paths[path][method]
        assert {status for status in described["responses"] if status[0] != "2"} - {"422"} == statuses | {"503"}
        assert ("security" in described) is bool(statuses)


@pytest.mark.parametrize(
    ("health", "seen", "ejected", "is_draining", "shown"),
    [
        (Health.HEALTHY, Health.HEALTHY, False, True, "draining"),
        (Health.HEALTHY, Health.HEALTHY, False, False, "healthy"),
        (Health.HEALTHY, Health.EJECTED, True, False, "ejected"),
        (Health.HEALTHY, Health.EJECTED, True, True, "draining"),
        (Health.HEALTHY, Health.DRAINING, False, False, "healthy"),
        (Health.HEALTHY, Health.DRAINING, True, False, "ejected"),
        (Health.HEALTHY, Health.DRAINING, False, True, "draining"),
        (Health.UNHEALTHY, Health.UNHEALTHY, False, True, "unhealthy"),
        (Health.UNKNOWN, Health.DRAINING, False, False, "unknown"),
    ],
)
def test_drain_is_shown_as_redis_has_it(
    health: Health, seen: Health, ejected: bool, is_draining: bool, shown: str
) -> None:
    """The drain is read from Redis; everything else is what this process last loaded."""
    ejection = Ejection(1_800_000_000.0) if ejected else None
    record = WorkerRecord(Worker(CONFIGURED), health)
    told = _admin_worker((record, seen, ejection), Standing(None, Override(), is_draining, 3))
    assert told is not None
    assert (told.health, told.draining, told.running) == (shown, is_draining, 3)


@pytest.mark.parametrize(
    ("method", "path"), [("POST", ""), ("DELETE", ""), ("PATCH", ""), ("POST", "/drain"), ("POST", "/resume")]
)
async def test_changes_are_admitted_before_their_body_is_read(desk: Desk, method: str, path: str) -> None:
    """A change without a token gets 401 whatever else is wrong with it; reading needs no token."""
    status, _ = await desk.ask(method, path, None, {"x": 1}, (b"x", b"y"))
    assert (status, desk.fields[b"www-authenticate"]) == (401, b"Bearer")
    assert (await desk.ask("GET", "", None, None, (b"x", b"y")))[0] == 200


async def test_refusal_without_a_configured_token_asks_for_none(desk: Desk) -> None:
    """Without a configured token the answer is 403, because no token could be sent."""
    open_desk = Desk(desk.redis, desk.client, AdminGate(None, allow_loopback=False))
    status, _ = await open_desk.ask("POST", "/drain", FOUND)
    assert (status, b"www-authenticate" in open_desk.fields) == (403, False)


async def test_allowed_loopback_needs_no_token(desk: Desk) -> None:
    """With allow_loopback and no configured token, a user of this host changes the fleet without one."""
    open_desk = Desk(desk.redis, desk.client, AdminGate(None, allow_loopback=True))
    open_desk.peer = "127.0.0.1"
    status, _ = await open_desk.ask("POST", "/drain", FOUND, None, (b"host", b"localhost"))
    assert status == 200


async def test_outage_of_redis_gets_503(redis: "FakeAsyncRedis") -> None:
    """Reads and changes get 503 with the reason while Redis is away."""
    client = RedisClient(FakeAsyncRedis(connected=False), "sfr", timeout_s=1)
    desk = Desk(redis, client, AdminGate(TOKEN, allow_loopback=False))
    for method, path, url in (("GET", "", None), ("POST", "/drain", FOUND)):
        status, told = await desk.ask(method, path, url)
        assert status == 503
        assert told["detail"].startswith("Redis is unavailable: ")
