"""A browser inside the network does not run code for pages of other sites."""

import json
from collections.abc import AsyncIterator, Mapping

import aiohttp
import pytest
from yarl import URL

from router.auth.origin import Pages, is_foreign, is_loopback
from router.composition import create_app
from router.config.load import ConfigError, parse
from router.http.asgi import Application
from router.jobs.endpoints import JOB_ENDPOINTS
from router.policy.request_head import is_authority
from tests.support.load import JOB
from tests.support.serving import served
from tests.support.worker import ScriptedWorker

LAB = "https://lab.example:8443"
HERE = (b"host", b"router:8000")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client."""
    async with aiohttp.ClientSession() as client:
        yield client


def router(worker: ScriptedWorker, **more: object) -> Application:
    """Return a router before this worker."""
    settings = {"workers": [worker.url], "redis": {"url": "redis://127.0.0.1:1/0"}, **more}
    return create_app(parse(json.dumps(settings), "t"))


class Ways:
    """Every way in which a job can arrive."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self._session = session

    async def statuses(self, headers: Mapping[str, str]) -> set[int]:
        """Send a job in each way with these header fields, and return the statuses."""
        found = set()
        for path, method in (*JOB_ENDPOINTS.items(), ("/run%5Fcode", "POST"), ("/run_code/batch", "POST")):
            text = json.dumps(JOB)
            for _ in range(3):  # the head cache serves it from the second request on
                address = URL(self._url + path, encoded=True)
                # A page can send this type without a preflight request, and the batch handler reads it as JSON.
                fields = {"content-type": "text/plain", **headers}
                async with self._session.request(method, address, data=text, headers=fields) as response:
                    found.add(response.status)
                    told = await response.text()
                    assert response.status != 403 or "config.yaml" in json.loads(told)["detail"]
        return found


FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:3000"},
    {"origin": LAB},
    {"origin": "http://evil.example", "x-request-id": "abc"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
]


async def test_jobs_of_other_sites_pages_reach_no_worker(
    worker: ScriptedWorker, session: aiohttp.ClientSession
) -> None:
    """Each way in gives them 403; the site's own pages and programs are served."""
    async with served(router(worker)) as url:
        ways = Ways(url, session)
        assert await ways.statuses({}) == {200}
        for headers in FOREIGN:
            before = len(worker.jobs)
            assert await ways.statuses(headers) == {403}, headers
            assert len(worker.jobs) == before
        assert await ways.statuses({"origin": url, "sec-fetch-site": "same-origin"}) == {200}


async def test_only_jobs_are_refused_to_other_sites(worker: ScriptedWorker, session: aiohttp.ClientSession) -> None:
    """A link on another site may lead to the dashboard."""
    async with served(router(worker)) as url:
        for path in ("/dashboard", "/health", "/docs", "/"):
            async with session.get(url + path, headers={"sec-fetch-site": "cross-site"}) as response:
                assert response.status == 200


async def test_allowed_origins_have_cors(worker: ScriptedWorker, session: aiohttp.ClientSession) -> None:
    """Their pages may send preflight requests and jobs, and read the answers; other pages may not."""
    async with served(router(worker, cors_origins=[LAB])) as url:
        asked = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        for origin, status in ((LAB, 200), ("http://evil.example", 400)):
            for path in ("/run_code", "/run_code/batch", "/run_jupyter"):
                async with session.options(url + path, headers={**asked, "origin": origin}) as response:
                    assert response.status == status
                    assert (response.headers.get("access-control-allow-origin") == LAB) is (origin == LAB)
        assert await Ways(url, session).statuses({"origin": LAB, "sec-fetch-site": "cross-site"}) == {200}
        for headers in FOREIGN:
            expected = {200} if headers == {"origin": LAB} else {403}
            assert await Ways(url, session).statuses(headers) == expected, headers
        async with session.post(f"{url}/run_code", json=JOB, headers={"origin": LAB}) as response:
            assert response.headers["access-control-allow-origin"] == LAB
            assert "x-router-worker" in response.headers["access-control-expose-headers"]
        async with session.post(f"{url}/run_code", json=JOB) as response:
            assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "2130706433", "192.0.2.7"]
)
async def test_names_that_are_not_the_router_s_are_refused(
    worker: ScriptedWorker, session: aiohttp.ClientSession, host: str
) -> None:
    """With trusted_hosts, an unknown host gets 403 everywhere; otherwise DNS rebinding would make its page ours."""
    async with served(router(worker, trusted_hosts=["router", "10.0.0.0/8"])) as url:
        ways = Ways(url, session)
        for headers in ({"host": host}, {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}):
            assert await ways.statuses(headers) == {403}
            async with session.get(f"{url}/admin/workers", headers=headers) as response:
                assert response.status == 403
        assert worker.jobs == []
        for good in ("router:8000", "localhost", "127.0.0.1:1", "[::1]", "10.1.2.3", "ROUTER"):
            assert await ways.statuses({"host": good}) == {200}


@pytest.mark.parametrize(
    ("host", "is_taken"),
    [(b"lab.example:8443", True), (b"lab.example", True), (b"router", True), (b"localhost", True), (b"evil", False)],
)
def test_name_of_an_allowed_origin_is_one_of_the_router_s(host: bytes, is_taken: bool) -> None:
    """A proxy may serve the router and an allowed origin's pages under the same name."""
    headers = [(b"accept", b"evil"), (b"host", host)]
    assert (Pages([LAB], ["router"]).refusal(headers) is None) is is_taken
    assert (Pages([LAB], ["router"]).job_refusal(headers) is None) is is_taken


@pytest.mark.parametrize(
    ("headers", "foreign"),
    [
        ([HERE], False),
        ([HERE, (b"origin", b"http://router:8000")], False),
        ([HERE, (b"origin", b"HTTP://Router:8000")], False),
        ([HERE, (b"origin", b"http://router")], True),
        ([HERE, (b"origin", b"http://router:8000.evil.example")], True),
        ([HERE, (b"origin", b"http://router:8000/")], True),
        ([HERE, (b"origin", b"http://a@router:8000")], True),
        ([HERE, (b"origin", b"")], True),
        ([HERE, (b"origin", b"http://router:8000"), (b"origin", b"http://evil.example")], True),
        ([HERE, (b"origin", b"http://router:8000"), (b"sec-fetch-site", b"cross-site")], True),
        ([HERE, (b"sec-fetch-site", b"none")], False),
        ([HERE, (b"sec-fetch-site", b"")], True),
        ([(b"host", b"router"), (b"origin", b"https://router")], False),
        ([(b"host", b"router:443"), (b"origin", b"https://router")], False),
        ([(b"host", b"[::1]:8000"), (b"origin", b"http://[::1]:8000")], False),
        ([(b"origin", b"http://router")], True),
        ([(b"host", b"router"), (b"origin", b"http://other")], True),
        ([(b"accept", b"other"), HERE, (b"origin", b"http://router:8000")], False),
    ],
)
def test_other_sites_are_distinguished_from_this_one(headers: list[tuple[bytes, bytes]], foreign: bool) -> None:
    """A page of this site has the request's host and port; a proxy may have changed the scheme."""
    assert is_foreign(headers) is foreign
    assert (Pages([], []).job_refusal(headers) is not None) is foreign


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b":80",
        b"a b",
        b"a,b",
        b"a/b",
        b"a@b",
        b"a:b",
        b"a:80:80",
        b"a:123456",
        b"[::1",
        b"::1",
        b"a\\b",
        b"a?b",
        b"a#b",
    ],
)
def test_ambiguous_authority_is_invalid(text: bytes) -> None:
    """Two programs could read each of these texts as different hosts."""
    assert not is_authority(text)


@pytest.mark.parametrize(
    ("host", "here"),
    [("localhost", True), ("a.localhost", True), ("127.8.8.8", True), ("::1", True), ("::ffff:127.0.0.1", True)]
    + [
        (other, False)
        for other in ("", "localhost.evil.example", "evillocalhost", "127.1", "0x7f000001", "10.0.0.1", "0.0.0.0")
    ],
)
def test_loopback(host: str, here: bool) -> None:
    """These names and addresses mean this host, whatever DNS says."""
    assert is_loopback(host) is here


@pytest.mark.parametrize(
    "given",
    ["lab.example", "*", "null", "http://lab.example/", "ftp://lab.example", "http://", "http://a:0", "http://a:99999"],
)
def test_bad_origin_is_a_mistake_in_config(given: str) -> None:
    """The error names the value and shows an example."""
    with pytest.raises(ConfigError, match=r"c: cors_origins\[0\]: expected an origin such as https://lab.example:8443"):
        parse(f"cors_origins: ['{given}']", "c")


def test_origins_are_kept_as_browsers_send_them() -> None:
    """Origins are kept in lower case and without a default port."""
    settings = parse("cors_origins: ['HTTP://Lab.example:80', 'https://[::1]:8443']", "c")
    assert settings.cors_origins == ("http://lab.example", "https://[::1]:8443")
