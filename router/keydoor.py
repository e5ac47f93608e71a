"""The door where `api_keys` is set: who sends a job without a key gets 401, and no worker sees a key.

Without `api_keys` the plain JobDoor stands in its place.
"""

from collections.abc import Callable, Coroutine
from http import HTTPStatus

import msgspec

from router.access import ApiKeys, basic, bearer
from router.answers import Answer, problem
from router.asgi import BELOW, Application, Asked, JobDoor, JobHead, Receive, Scope, Send, request_id_of
from router.bodies import Buffers
from router.course import Deliver
from router.dispatch import Dispatcher
from router.headers import Headers, read_head
from router.settings import Settings
from router.tally import Tally

API_KEY = b"x-api-key"
_CREDENTIALS = frozenset({b"authorization", API_KEY})
_HOW = "send it as `Authorization: Bearer KEY`, as `x-api-key: KEY`, or in the URL: http://any:KEY@router/run_code"


class KeyDoor(JobDoor):
    """Takes jobs that come with a key, and lets all through that is no job."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        rest: Application,
        buffers: Buffers,
        settings: Settings,
        tally: Tally,
        keys: ApiKeys,
    ) -> None:
        super().__init__(dispatcher, rest, buffers, settings, tally)
        self._keys = keys

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith(BELOW):
            scope["headers"] = _without_credentials(scope["headers"])
        await super()._pass_on(scope, receive, send)

    async def _take(self, asked: Asked, receive: Receive, whole: bytes | None) -> Answer | None:
        return await super()._take(_without_key(asked), receive, whole)

    def read(self, asked: Asked, *, keep_alive: bool) -> JobHead:
        """Return what this head says; its credentials do not go on, but are kept, to be looked at each time."""
        head = super().read(_without_key(asked), keep_alive=keep_alive)
        return msgspec.structs.replace(head, headers=asked.headers)

    def begin(
        self, head: JobHead, body: bytes, has_left: Callable[[], Coroutine[None, None, None]], deliver: Deliver
    ) -> None:
        """Take a job that has come whole; without a key it gets 401. Its head was not refused for anything else."""
        if refusal := self._key_refusal(head.headers):
            deliver(self._refused(head.path, refusal))
        else:
            super().begin(head, body, has_left, deliver)

    def _refusal(self, headers: Headers) -> Answer | None:
        return super()._refusal(headers) or self._key_refusal(headers)

    def _key_refusal(self, headers: Headers) -> Answer | None:
        """Return the answer to jobs without a key, 401; None where they have one."""
        given = next((value for name, value in headers if name == API_KEY), None)
        key = given or bearer(headers) or basic(headers)
        if key is not None and self._keys.knows(key):
            return None
        detail = f"Jobs need an API key: {_HOW}" if key is None else "Unknown API key"
        answer = problem(HTTPStatus.UNAUTHORIZED, detail, request_id_of(read_head(headers)))
        # Not Basic: browsers would ask for the key, keep it, and send it along with what other sites' pages ask for.
        return answer.with_field(b"www-authenticate", b"Bearer")


def _without_key(asked: Asked) -> Asked:
    return msgspec.structs.replace(asked, headers=_without_credentials(asked.headers))


def _without_credentials(headers: Headers) -> Headers:
    return [field for field in headers if field[0] not in _CREDENTIALS]
