"""Decides which requests may send jobs and which may change the fleet.

It looks at API keys, the admin token, and the other end of the connection. The admin token is compared in constant
time. Keys are known by their hashes. Neither is logged or passed on to workers.
"""

import asyncio
import binascii
import hmac
import logging
import re
import socket
import threading
from binascii import a2b_base64
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any, Never, Self

import msgspec

from router.auth.admin_token import TOKEN_VARIABLE, admin_token
from router.auth.origin import Pages, host_name, is_foreign, is_loopback
from router.config.load import ConfigError, WatchedFile
from router.config.settings import Settings
from router.config.text_file import Unreadable, read_text
from router.config.worker_auth import WorkerAuth
from router.http.headers import Headers
from router.policy.request_head import Refusal

log = logging.getLogger(__name__)

# The entry of the lifespan state in which downstream puts the address at the other end of a connection's socket.
PEER = "peer"
# Stands for the address of a connection over a Unix socket.
UNIX_SOCKET = "a Unix socket"
# Stands for the address if the client sends an absolute-form target, which is for proxies (RFC 9112 §3.2.2).
PROXY = "a proxy"

_API_KEY = b"x-api-key"
_CREDENTIALS = frozenset({b"authorization", _API_KEY})
_HOW = "send it as `Authorization: Bearer KEY`, as `x-api-key: KEY`, or in the URL: http://any:KEY@router/run_code"

REREAD_S = 1.0
# A larger file is read in a thread: reading a hundred thousand keys would hold up all jobs.
_READ_AT_ONCE_BYTES = 2**16
_HASH = re.compile(r"[0-9a-fA-F]{64}")
# A proxy adds these fields. Then the connection is the proxy's, and tells nothing about the client.
_FROM_PROXIES = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)


class ApiKeys:
    """The API keys in a file, which is read again when it changes. The file holds hashes of keys, and their names.

    A timer looks at the file, not a job: in a quiet process the first job with a removed key would still be let in.
    """

    def __init__(self, path: Path) -> None:
        """Read the file. Raises ConfigError."""
        self._file = WatchedFile(path)
        self._file.has_changed()
        self._names = _read_keys(path)
        self._news: str | None = None

    async def run(self) -> Never:
        """Look at the file every REREAD_S seconds, until cancelled."""
        while True:
            await asyncio.sleep(REREAD_S)
            self.look()

    def look(self) -> None:
        """Read the file again if it has changed."""
        if not self._file.has_changed():
            return
        if self._file.size_bytes <= _READ_AT_ONCE_BYTES:
            self._take_over()
        else:
            threading.Thread(target=self._take_over, daemon=True).start()

    def take_news(self) -> str | None:
        """Return "" if a changed file was taken over since the last call, its flaw if it was not; None: no change."""
        news, self._news = self._news, None
        return news

    def name_of(self, key: bytes) -> str | None:
        """Return the key's name, empty if it has none; None if the key is unknown.

        This takes as long with many keys as with few. Its time may tell how a stored hash begins. That helps no
        attacker, because no key can be made for a given hash.
        """
        return self._names.get(sha256(key).digest())

    def _take_over(self) -> None:
        try:
            self._names = _read_keys(self._file.path)
        except ConfigError as error:
            log.error("API keys not taken over, the last good ones stay in force: %s", error)  # noqa: TRY400
            self._news = str(error)
        else:
            self._news = ""
            log.info("%s read again: %d API keys", self._file.path, len(self._names))


@dataclass(frozen=True, slots=True)
class Access:
    """Which requests this router lets in, and how workers let the router in (`worker_auth`).

    `api_keys` None: jobs need no key. `admin_token` None: changes come from this host only.
    """

    admin_token: str | None = None
    api_keys: ApiKeys | None = None
    worker_auth: WorkerAuth = field(default_factory=WorkerAuth, compare=False)

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Read the token from the environment or its file, keys and headers from theirs. Raises ConfigError."""
        try:
            token = admin_token()
        except Unreadable as error:
            raise ConfigError(str(error)) from error
        keys = ApiKeys(Path(settings.api_keys)) if settings.api_keys else None
        return cls(token, keys, WorkerAuth.load(settings))

    def take_key_news(self) -> str | None:
        """Return what `ApiKeys.take_news` does; None without a file of API keys."""
        return None if self.api_keys is None else self.api_keys.take_news()

    async def run(self) -> None:
        """Look at the file of API keys from time to time, until cancelled; without one, return at once."""
        if self.api_keys is not None:
            await self.api_keys.run()


OPEN = Access()


class Admission(msgspec.Struct, frozen=True):
    """The proof that a request may send jobs. Only JobGate makes one, and there is no job without one.

    `headers` are the request's, without its credentials: these end here. `key_name` is the name of its API key, empty
    if the key has no name or none is needed. `key` is None if none is needed.
    """

    headers: Headers
    key_name: str = ""
    key: bytes | None = None


class JobGate:
    """Decides who may send jobs: programs and the allowed pages; if API keys are set, only with one of them.

    Header names are in lower case.
    """

    def __init__(self, pages: Pages, keys: ApiKeys | None) -> None:
        self._pages = pages
        self._keys = keys

    @property
    def needs_keys(self) -> bool:
        """Whether jobs need an API key; then the key alone says whose they are."""
        return self._keys is not None

    def refusal(self, headers: Headers) -> Refusal | None:
        """Return why a request that is no job is refused; None if it may pass."""
        reason = self._pages.refusal(headers)
        return None if reason is None else Refusal(HTTPStatus.FORBIDDEN, reason)

    def admit(self, headers: Headers) -> Admission | Refusal:
        """Return the admission of jobs with these headers, or why they are refused (401, 403)."""
        if reason := self._pages.job_refusal(headers):
            return Refusal(HTTPStatus.FORBIDDEN, reason)
        if self._keys is None:
            return Admission(headers)
        given = next((value for name, value in headers if name == _API_KEY), None)
        key = given or bearer(headers) or basic(headers)
        if key is None:
            return Refusal(HTTPStatus.UNAUTHORIZED, f"Jobs need an API key: {_HOW}")
        return self.renew(Admission([field for field in headers if field[0] not in _CREDENTIALS], key=key))

    def renew(self, admission: Admission) -> Admission | Refusal:
        """Return an earlier request's admission for one with the same headers: its key may be unknown by now.

        It is the same object as long as the key has the same name.
        """
        if self._keys is None or admission.key is None:
            return admission
        name = self._keys.name_of(admission.key)
        if name is None:
            return Refusal(HTTPStatus.UNAUTHORIZED, "Unknown API key")
        return admission if name == admission.key_name else msgspec.structs.replace(admission, key_name=name)


class AdminGate:
    """Decides who may change the fleet: with the admin token; if none is set, at most users of this host."""

    def __init__(self, token: str | None, *, allow_loopback: bool) -> None:
        self._token = token
        self._allow_loopback = allow_loopback

    @property
    def takes_token(self) -> bool:
        """Whether a token is set; then changes need it."""
        return self._token is not None

    def refusal(self, headers: Headers, peer: str) -> tuple[HTTPStatus, str] | None:
        """Return the status and the reason with which a change is refused; None if it may pass.

        `peer` is the address at the other end of the socket, or UNIX_SOCKET; header names are in lower case.
        """
        if self._token is not None:
            given = bearer(headers)
            if given is not None and hmac.compare_digest(given, self._token.encode()):
                return None
            return HTTPStatus.UNAUTHORIZED, "Changes need the admin token, as `Authorization: Bearer TOKEN`"
        reason = self._not_own(headers, peer)
        return None if reason is None else (HTTPStatus.FORBIDDEN, f"{reason}; set {TOKEN_VARIABLE} for the router")

    def _not_own(self, headers: Headers, peer: str) -> str | None:
        """Return why this request does not come from a user of this host, who needs no token."""
        if not self._allow_loopback:
            return "Changes need an admin token, and none is set"
        fields = dict(headers)
        if peer not in (UNIX_SOCKET, PROXY) and not is_loopback(peer):
            return "Without an admin token changes are taken from this host alone"
        if peer == PROXY or _FROM_PROXIES & fields.keys():
            return "Without an admin token changes are not taken through a proxy"
        # A page of another site, in a browser on this host, has another origin, or asks for the router by another name.
        is_asked_here = peer == UNIX_SOCKET or is_loopback(host_name(fields.get(b"host", b"")))
        if is_foreign(headers) or not is_asked_here:
            return "Without an admin token changes are not taken from pages of another site"
        return None


def peer_of(client: tuple[str, int] | None, transport: asyncio.BaseTransport) -> str:
    """Return the address at the other end of the transport's socket, or UNIX_SOCKET; empty if it is not known.

    `client` is the address that the socket reports. It is None for a Unix socket, but also for a TCP client that has
    gone.
    """
    if client:
        return client[0]
    return UNIX_SOCKET if transport.get_extra_info("socket").family == socket.AF_UNIX else ""


def peer_in(scope: MutableMapping[str, Any]) -> str:
    """Return the address at the other end of a request's connection, as `peer_of` put it into the scope.

    Empty if there is none, as under plain uvicorn's protocol. Then no client counts as being on this host.
    """
    peer: str = scope.get("state", {}).get(PEER, "")
    return peer


def bearer(headers: Headers) -> bytes | None:
    """Return the token of `Authorization: Bearer`; None if there is none."""
    return _authorization(headers, b"bearer")


def basic(headers: Headers) -> bytes | None:
    """Return the password of `Authorization: Basic`, or its user if the password is empty; None if there is neither.

    Clients send it for a URL like `http://any:KEY@router/run_code`, or `http://KEY@router/run_code`.
    """
    try:
        given = a2b_base64(_authorization(headers, b"basic") or b"", strict_mode=True)
    except binascii.Error:
        return None
    user, colon, password = given.partition(b":")  # RFC 7617 §2
    return (password or user or None) if colon else None


def _authorization(headers: Headers, wanted: bytes) -> bytes | None:
    for name, value in headers:
        if name == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            if scheme.lower() == wanted:
                return credentials.strip()
    return None


def _read_keys(path: Path) -> dict[bytes, str]:
    names = {}
    try:
        text = read_text(path, "api_keys")
    except Unreadable as error:
        raise ConfigError(str(error)) from error
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if not _HASH.fullmatch(words[0]):  # the line is not repeated: it may be a key by mistake
            raise ConfigError(f"{path}:{number}: expected a key's SHA-256, 64 hexadecimal digits, and perhaps a name")
        names[bytes.fromhex(words[0])] = " ".join(words[1:])
    return names
