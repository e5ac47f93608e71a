"""The door where `api_keys` is set: who sends a job without a key gets 401, and no worker sees a key.

Without `api_keys` the plain JobDoor stands in its place.
"""

from collections.abc import Callable, Coroutine
from http import HTTPStatus

import msgspec

from router.access import ApiKeys, basic, bearer
from router.answers import Answer, problem
from router.asgi import (
    KEY_NAME,
    Application,
    Asked,
    JobDoor,
    JobHead,
    Receive,
    Scope,
    Send,
    request_id_of,
    send_answer,
)
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
        # What lies below a job's endpoint takes jobs, too.
        self._below = tuple(f"{path}/" for path in self.methods)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "http" and scope["path"].startswith(self._below):
            found = self._key_name(scope["headers"])
            if isinstance(found, Answer):
                self.tally.refused(found.status, found.outcome)
                await send_answer(found, receive, send)
                return
            scope.setdefault("state", {})[KEY_NAME] = found
            scope["headers"] = _without_credentials(scope["headers"])
        await super().__call__(scope, receive, send)

    async def answer(self, asked: Asked, receive: Receive, whole: bytes | None = None) -> Answer | None:
        """Return the answer to a job; without a key it is 401, and nothing of its body is read."""
        found = self._key_name(asked.headers)
        if isinstance(found, Answer):
            return self._refused(asked.path, found)
        return await super().answer(_without_key(asked, found), receive, whole)

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
        """Return the name of the key that came; without a known one, the answer."""
        given = next((value for name, value in headers if name == API_KEY), None)
        key = given or bearer(headers) or basic(headers)
        if key is not None and (found := self._keys.name_of(key)) is not None:
            return found
        detail = f"Jobs need an API key: {_HOW}" if key is None else "Unknown API key"
        answer = problem(HTTPStatus.UNAUTHORIZED, detail, request_id_of(read_head(headers)))
        # Not Basic: browsers would ask for the key, keep it, and send it along with what other sites' pages ask for.
        return answer.with_field(b"www-authenticate", b"Bearer")


def _without_key(asked: Asked, key_name: str = "") -> Asked:
    return msgspec.structs.replace(asked, headers=_without_credentials(asked.headers), key_name=key_name)


def _without_credentials(headers: Headers) -> Headers:
    return [field for field in headers if field[0] not in _CREDENTIALS]
