"""The handler where `api_keys` is set: who sends a job without a key gets 401, and no worker sees a key.

Without `api_keys` the plain JobHandler stands in its place.
"""

from collections.abc import Callable, Coroutine
from http import HTTPStatus

import msgspec

from router.auth.access import ApiKeys, basic, bearer
from router.config.settings import Settings
from router.http.answer import Answer, problem
from router.http.asgi import Application, Receive, Scope, Send, request_id_of
from router.http.headers import Headers, read_head
from router.jobs.body_budget import BodyBudget
from router.jobs.dispatcher import Dispatcher
from router.jobs.endpoints import Asked, JobHead
from router.jobs.handler import JobHandler
from router.jobs.job import Deliver
from router.telemetry.recorder import Recorder

API_KEY = b"x-api-key"
_CREDENTIALS = frozenset({b"authorization", API_KEY})
_HOW = "send it as `Authorization: Bearer KEY`, as `x-api-key: KEY`, or in the URL: http://any:KEY@router/run_code"


class KeyAuthHandler(JobHandler):
    """Takes jobs that come with a key, and lets all through that is no job."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        rest: Application,
        buffers: BodyBudget,
        settings: Settings,
        recorder: Recorder,
        keys: ApiKeys,
    ) -> None:
        super().__init__(dispatcher, rest, buffers, settings, recorder)
        self._keys = keys

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, key_name: str) -> None:
        if scope["path"].startswith(self._below):
            scope["headers"] = _without_credentials(scope["headers"])
        await super()._pass_on(scope, receive, send, key_name)

    async def _take(self, asked: Asked, receive: Receive, whole: bytes | None) -> Answer | None:
        return await super()._take(_without_key(asked), receive, whole)

    def _admit(self, headers: Headers) -> str | Answer:
        """Return the name of the key that came; without a known one, 401."""
        return super()._admit(headers) or self._key_name(headers)

    def read(self, asked: Asked, *, keep_alive: bool) -> JobHead:
        """Return what this head says; its credentials do not go on, but are kept, to be looked at each time."""
        head = super().read(_without_key(asked), keep_alive=keep_alive)
        return msgspec.structs.replace(head, headers=asked.headers)

    def begin(
        self, head: JobHead, body: bytes, has_left: Callable[[], Coroutine[None, None, None]], deliver: Deliver
    ) -> None:
        """Take a job that has come whole; without a key it gets 401."""
        found = self._key_name(head.headers)
        if isinstance(found, Answer):
            deliver(self._refused(head.path, found))
        else:
            super().begin(msgspec.structs.replace(head, key_name=found), body, has_left, deliver)

    def _key_name(self, headers: Headers) -> str | Answer:
        given = next((value for name, value in headers if name == API_KEY), None)
        key = given or bearer(headers) or basic(headers)
        if key is not None and (found := self._keys.name_of(key)) is not None:
            return found
        detail = f"Jobs need an API key: {_HOW}" if key is None else "Unknown API key"
        answer = problem(HTTPStatus.UNAUTHORIZED, detail, request_id_of(read_head(headers)))
        # Not Basic: browsers would ask for the key, keep it, and send it along with what other sites' pages ask for.
        return answer.with_field(b"www-authenticate", b"Bearer")


def _without_key(asked: Asked) -> Asked:
    return msgspec.structs.replace(asked, headers=_without_credentials(asked.headers))


def _without_credentials(headers: Headers) -> Headers:
    return [field for field in headers if field[0] not in _CREDENTIALS]
