"""Who may send jobs and who may steer the fleet: API keys, the admin token, and where a connection comes from.

Secrets are compared in constant time, and neither logged nor passed on.
"""

import asyncio
import binascii
import hmac
import logging
import re
import socket
import time
from binascii import a2b_base64
from collections.abc import MutableMapping
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

from router.admin_token import TOKEN_VARIABLE, Unreadable, admin_token, read
from router.config import ConfigError, WatchedFile
from router.headers import Headers
from router.policy.origin import host_name, is_foreign, is_loopback
from router.settings import Settings

log = logging.getLogger(__name__)

# The lifespan state's entry by which downstream tells the application who is at the other end of a connection's socket.
PEER = "peer"
# What a connection over a Unix socket is known by, in place of an address.
UNIX_SOCKET = "a Unix socket"
# And one whose client sends an absolute-form target: that is for proxies (RFC 9112 §3.2.2).
PROXY = "a proxy"

REREAD_S = 1.0
_HASH = re.compile(r"[0-9a-fA-F]{64}")
# By these a proxy tells for whom it asks: the connection is its own, and says nothing of who that is.
_FROM_PROXIES = frozenset(
    {b"forwarded", b"via", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto", b"x-real-ip"}
)


class ApiKeys:
    """The keys that jobs may be sent with, by their hashes in a file that is read again when it changes."""

    def __init__(self, path: Path, reread_s: float = REREAD_S) -> None:
        """Read the file, which is looked at every `reread_s` seconds from now on. Raises ConfigError."""
        self._file = WatchedFile(path)
        self._file.has_changed()
        self._hashes = _read_hashes(path)
        self._reread_s = reread_s
        self._look_again_at = time.monotonic() + reread_s

    def knows(self, key: bytes) -> bool:
        """Whether the key is one of them. Takes as long whichever it is."""
        self._reread()
        wanted = sha256(key).digest()
        is_known = False
        for each in self._hashes:
            is_known |= hmac.compare_digest(each, wanted)
        return is_known

    def _reread(self) -> None:
        now = time.monotonic()
        if now < self._look_again_at:
            return
        self._look_again_at = now + self._reread_s
        if self._file.has_changed():
            try:
                self._hashes = _read_hashes(self._file.path)
            except ConfigError as error:
                log.error("API keys not taken over, the last good ones stay in force: %s", error)  # noqa: TRY400
            else:
                log.info("%s read again: %d API keys", self._file.path, len(self._hashes))


@dataclass(frozen=True, slots=True)
class Access:
    """What this router lets in. `api_keys` None: every job; `admin_token` None: no change but from this host."""

    admin_token: str | None = None
    api_keys: ApiKeys | None = None

    @classmethod
    def load(cls, settings: Settings) -> Self:
        """Read the token from the environment or its file, and the keys from theirs. Raises ConfigError."""
        try:
            token = admin_token()
        except Unreadable as error:
            raise ConfigError(str(error)) from error
        return cls(token, ApiKeys(Path(settings.api_keys)) if settings.api_keys else None)


OPEN = Access()


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


def _read_hashes(path: Path) -> tuple[bytes, ...]:
    hashes = []
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
        hashes.append(bytes.fromhex(words[0]))
    return tuple(hashes)
