"""Who may send jobs and who may steer the fleet: API keys, the admin token, and where a connection comes from.

The admin token is compared in constant time; keys are known by their hashes. Neither is logged or passed on.
"""

import asyncio
import binascii
import hmac
import logging
import re
import socket
import threading
import time
from binascii import a2b_base64
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import msgspec

from router.auth.admin_token import TOKEN_VARIABLE, Unreadable, admin_token, read
from router.auth.origin import Pages, host_name, is_foreign, is_loopback
from router.config.load import ConfigError, WatchedFile
from router.config.settings import Settings
from router.config.worker_auth import WorkerAuth
from router.http.headers import Headers
from router.policy.request_head import Refusal

log = logging.getLogger(__name__)

# The lifespan state's entry by which downstream tells the application who is at the other end of a connection's socket.
PEER = "peer"
# What a connection over a Unix socket is known by, in place of an address.
UNIX_SOCKET = "a Unix socket"
# And one whose client sends an absolute-form target: that is for proxies (RFC 9112 §3.2.2).
PROXY = "a proxy"

_API_KEY = b"x-api-key"
_CREDENTIALS = frozenset({b"authorization", _API_KEY})
_HOW = "send it as `Authorization: Bearer KEY`, as `x-api-key: KEY`, or in the URL: http://any:KEY@router/run_code"

REREAD_S = 1.0
# Some hundred keys; to read a hundred thousand would hold all jobs up for 0.1 s.
_READ_AT_ONCE_BYTES = 2**16
_HASH = re.compile(r"[0-9a-fA-F]{64}")
# By these a proxy tells for whom it asks: the connection is its own, and says nothing of who that is.
_FROM_PROXIES = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)


class ApiKeys:
    """The keys that jobs may be sent with, by their hashes in a file that is read again when it changes.

    What it holds are hashes and the names that stand beside them.
    """

    def __init__(self, path: Path, reread_s: float = REREAD_S) -> None:
        """Read the file, which is looked at every `reread_s` seconds from now on. Raises ConfigError."""
        self._file = WatchedFile(path)
        self._file.has_changed()
        self._names = _read_keys(path)
        self._reread_s = reread_s
        self._look_again_at = time.monotonic() + reread_s

    def name_of(self, key: bytes) -> str | None:
        """Return the key's name, empty where it has none; None where it is unknown.

        It takes as long however many there are. What the time tells of a hash's beginning helps nobody: a key cannot be
        made for a hash.
        """
        self._reread()
        return self._names.get(sha256(key).digest())

    def _reread(self) -> None:
        now = time.monotonic()
        if now < self._look_again_at:
            return
        self._look_again_at = now + self._reread_s
        if not self._file.has_changed():
            return
        if self._file.size_bytes <= _READ_AT_ONCE_BYTES:
            self._take_over()
        else:
            threading.Thread(target=self._take_over, daemon=True).start()

    def _take_over(self) -> None:
        try:
            self._names = _read_keys(self._file.path)
        except ConfigError as error:
            log.error("API keys not taken over, the last good ones stay in force: %s", error)  # noqa: TRY400
        else:
            log.info("%s read again: %d API keys", self._file.path, len(self._names))


@dataclass(frozen=True, slots=True)
class Access:
    """What this router lets in. `api_keys` None: every job; `admin_token` None: no change but from this host.

    `worker_auth` is by what workers let it in.
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
        """Return an earlier request's admission for one with the same headers: its key may be unknown by now."""
        if self._keys is None or admission.key is None:
            return admission
        name = self._keys.name_of(admission.key)
        if name is None:
            return Refusal(HTTPStatus.UNAUTHORIZED, "Unknown API key")
        return msgspec.structs.replace(admission, key_name=name)


class AdminGate:
    """Decides who may change the fleet: who has the token; where there is none, at most this host's own users."""

    def __init__(self, token: str | None, *, allow_loopback: bool) -> None:
        self._token = token
        self._allow_loopback = allow_loopback

    @property
    def takes_token(self) -> bool:
        """Whether a token is set, and so needed."""
        return self._token is not None

    def refusal(self, headers: Headers, peer: str) -> tuple[HTTPStatus, str] | None:
        """Return with which status and why a change is refused; None where it is not.

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
        """Return why this is not one of this host's own users, who may do without a token."""
        if not self._allow_loopback:
            return "Changes need an admin token, and none is set"
        fields = dict(headers)
        if peer not in (UNIX_SOCKET, PROXY) and not is_loopback(peer):
            return "Without an admin token changes are taken from this host alone"
        if peer == PROXY or _FROM_PROXIES & fields.keys():
            return "Without an admin token changes are not taken through a proxy"
        # A page from elsewhere, in a browser on this host, has another name for it, or another origin.
        is_asked_here = peer == UNIX_SOCKET or is_loopback(host_name(fields.get(b"host", b"")))
        if is_foreign(headers) or not is_asked_here:
            return "Without an admin token changes are not taken from pages of another site"
        return None


def peer_of(client: tuple[str, int] | None, transport: asyncio.BaseTransport) -> str:
    """Return the address at the other end of the transport's socket, or UNIX_SOCKET; empty where it cannot be told.

    `client` is what the socket says of its other end; of one that has gone it says as little as of a Unix socket's.
    """
    if client:
        return client[0]
    return UNIX_SOCKET if transport.get_extra_info("socket").family == socket.AF_UNIX else ""


def peer_in(scope: MutableMapping[str, Any]) -> str:
    """Return what a request's connection says of its other end.

    Empty where it says nothing: plain uvicorn's protocol does not, and then nobody counts as being on this host.
    """
    peer: str = scope.get("state", {}).get(PEER, "")
    return peer


def bearer(headers: Headers) -> bytes | None:
    """Return what `Authorization: Bearer` gives; None where it gives nothing."""
    return _authorization(headers, b"bearer")


def basic(headers: Headers) -> bytes | None:
    """Return the password that `Authorization: Basic` gives, else its user; None where it gives nothing.

    Clients send it for a URL such as `http://any:KEY@router/run_code`, or `http://KEY@router/run_code`.
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
        text = read(path, "api_keys")
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
