"""Serves the dashboard: its static files, its event stream, and whether the visitor may change the fleet.

Everyone may look, as with `GET /`. Changes go through /admin and its gate. The page shows workers' texts as data, never
as markup, and the policy below allows no script but the page's own.
"""

import asyncio
import json
from collections.abc import Iterator
from contextlib import aclosing
from hashlib import sha256
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable
from urllib.parse import parse_qs

import msgspec

from router.auth.access import AdminGate, bearer, peer_in
from router.dashboard.details import Details
from router.dashboard.feed import Feed
from router.fleet.redis_client import RedisUnavailable
from router.http.answer import Answer, problem
from router.http.asgi import STOPPING, Application, Receive, Scope, Send, leaving, new_request_id, send_answer
from router.http.headers import Headers, as_lines
from router.policy.verdict import Outcome

PATH = "/dashboard"
EVENTS, ACCESS = f"{PATH}/events", f"{PATH}/access"
WORKER, PROCESSES, LANGUAGES = f"{PATH}/worker", f"{PATH}/processes", f"{PATH}/languages"
# Each may hold one event, and 64 kB that it has not read.
MAX_WATCHERS = 64
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_GUARDS = [
    (b"content-security-policy", _POLICY),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
_TYPES = {
    "html": b"text/html; charset=utf-8",
    "css": b"text/css; charset=utf-8",
    "js": b"text/javascript; charset=utf-8",
    "svg": b"image/svg+xml",
}
_EVENTS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # keeps nginx from collecting events before it sends them
]


class DashboardHandler:
    """An ASGI application that serves the dashboard, and passes all other requests to `rest`."""

    def __init__(self, feed: Feed, details: Details, gate: AdminGate, rest: Application) -> None:
        self._feed = feed
        self._details = details
        self._gate = gate
        self._rest = rest
        self._pages = {_path_of(name): _page(name, body) for name, body in _page_files()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        path = scope.get("path", "")
        if scope["type"] == "http" and (path == PATH or path.startswith(f"{PATH}/")):
            if scope["method"] == "GET" and path == EVENTS and self._feed.watchers < MAX_WATCHERS:
                await self._stream(scope, receive, send)
            elif scope["method"] == "GET" and path in (WORKER, PROCESSES, LANGUAGES):
                await send_answer(await self._detail(scope, path), receive, send)
            else:
                await send_answer(self._answer(scope, path), receive, send)
        elif path == "/" and scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and _is_browser(scope):
            await send_answer(_moved("dashboard"), receive, send)
        else:
            await self._rest(scope, receive, send)

    def _answer(self, scope: Scope, path: str) -> Answer:
        allowed = ("GET",) if path in (EVENTS, WORKER, PROCESSES, LANGUAGES) else ("GET", "HEAD")
        if scope["method"] not in allowed:
            refused = problem(HTTPStatus.METHOD_NOT_ALLOWED, "Method Not Allowed", new_request_id())
            return refused.with_field(b"allow", ", ".join(allowed).encode())
        if path == ACCESS:
            return self._access(scope)
        if path == EVENTS:
            full = f"{MAX_WATCHERS} dashboards watch this process already"
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, full, new_request_id())
        return _moved("../dashboard") if path == f"{PATH}/" else self._page(scope, path)

    def _page(self, scope: Scope, path: str) -> Answer:
        page = self._pages.get(path)
        if page is None:
            return problem(HTTPStatus.NOT_FOUND, "Not Found", new_request_id())
        tag = dict(page.headers)[b"etag"]
        if any(name == b"if-none-match" and tag in value for name, value in scope["headers"]):
            unchanged = as_lines([field for field in page.headers if field[0] != b"content-length"])
            return Answer(HTTPStatus.NOT_MODIFIED, unchanged, b"", Outcome.RESULT)
        return page

    def _access(self, scope: Scope) -> Answer:
        """Say whether this request could change the fleet. The status is always 200, because it changes nothing."""
        refusal = self._gate.refusal(scope["headers"], peer_in(scope))
        status, detail = refusal or (HTTPStatus.OK, "")
        answer = {
            "may_steer": refusal is None,
            "takes_token": self._gate.takes_token,
            "is_wrong": status == HTTPStatus.UNAUTHORIZED and bearer(scope["headers"]) is not None,
            "detail": detail,
        }
        return _made(json.dumps(answer).encode(), b"application/json", [(b"cache-control", b"no-store")])

    async def _detail(self, scope: Scope, path: str) -> Answer:
        """Answer what a view asks for: /dashboard/worker?url=URL, /dashboard/processes or /dashboard/languages."""
        try:
            found: object
            if path == WORKER:
                asked = parse_qs(scope["query_string"].decode("latin-1")).get("url", [])
                if len(asked) != 1:
                    return problem(HTTPStatus.BAD_REQUEST, "Name one worker: ?url=URL", new_request_id())
                found = await self._details.worker(asked[0])
            else:
                found = await (self._details.processes() if path == PROCESSES else self._details.languages())
        except RedisUnavailable as error:
            return problem(HTTPStatus.SERVICE_UNAVAILABLE, f"Redis is unavailable: {error}", new_request_id())
        return _made(msgspec.json.encode(found), b"application/json", [(b"cache-control", b"no-store")])

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the client disconnects or this process stops."""
        stopping = asyncio.Event()
        scope.setdefault("state", {})[STOPPING] = stopping
        await send({"type": "http.response.start", "status": HTTPStatus.OK, "headers": list(_EVENTS)})
        sending, gone, stopped = (
            asyncio.create_task(part) for part in (self._send_events(send), leaving(receive), stopping.wait())
        )
        try:
            await asyncio.wait((sending, gone, stopped), return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()  # it ends only by a defect, which must be raised
        finally:
            for task in (sending, gone, stopped):
                task.cancel()
            await asyncio.gather(sending, gone, stopped, return_exceptions=True)
        await send({"type": "http.response.body", "body": b""})

    async def _send_events(self, send: Send) -> None:
        async with aclosing(self._feed.events()) as events:
            async for event in events:
                await send({"type": "http.response.body", "body": event, "more_body": True})


def _page_files() -> Iterator[tuple[str, bytes]]:
    """Yield each file of the page: its path below the page's folder, and its content."""

    def walk(folder: Traversable, below: str) -> Iterator[tuple[str, bytes]]:
        for entry in folder.iterdir():
            if entry.is_dir():
                yield from walk(entry, f"{below}{entry.name}/")
            elif entry.name.rpartition(".")[2] in _TYPES:
                yield f"{below}{entry.name}", entry.read_bytes()

    yield from walk(files("router.dashboard").joinpath("page"), "")


def _path_of(name: str) -> str:
    return PATH if name == "index.html" else f"{PATH}/{name}"


def _page(name: str, body: bytes) -> Answer:
    # Browsers revalidate each time, so that a new version of the router is shown at once.
    fields = [(b"cache-control", b"no-cache"), (b"etag", b'"%s"' % sha256(body).hexdigest()[:32].encode()), *_GUARDS]
    return _made(body, _TYPES[name.rpartition(".")[2]], fields)


def _moved(relative: str) -> Answer:
    # Relative, because a proxy may serve this below another path.
    fields = [(b"location", relative.encode()), (b"vary", b"accept"), (b"content-length", b"0")]
    return Answer(HTTPStatus.FOUND, as_lines(fields), b"", Outcome.RESULT)


def _made(body: bytes, media_type: bytes, fields: Headers) -> Answer:
    own = [(b"content-type", media_type), (b"content-length", b"%d" % len(body))]
    return Answer(HTTPStatus.OK, as_lines([*own, *fields]), body, Outcome.RESULT)


def _is_browser(scope: Scope) -> bool:
    return prefers_page(b",".join(value for name, value in scope["headers"] if name == b"accept").decode("latin-1"))


def prefers_page(accept: str) -> bool:
    """Whether an Accept header prefers HTML to JSON. Programs accept anything (`*/*`), or send none.

    >>> prefers_page("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"), prefers_page("*/*")
    (True, False)
    >>> prefers_page("application/json, text/html"), prefers_page("text/html;q=0.5, */*;q=0.6"), prefers_page("")
    (False, False, False)
    """
    weights: dict[str, float] = {}
    for item in accept.lower().split(","):
        name, *parameters = (part.strip() for part in item.split(";"))
        weights[name] = next((_weight(each[2:]) for each in parameters if each.startswith("q=")), 1.0)
    json_weight = next((weights[name] for name in ("application/json", "application/*", "*/*") if name in weights), 0.0)
    return weights.get("text/html", 0.0) > json_weight


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
