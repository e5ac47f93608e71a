"""Decides which request heads are refused, beyond those that the parser (llhttp) refuses itself.

llhttp refuses heads that two readers could split into requests differently: Content-Length next to Transfer-Encoding,
given twice, or no plain number; folded lines, bare LF, spaces before a colon, control characters. It looks at no
field's meaning and sets no limit on size; that is done here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus

# As much as nginx takes by default (4 buffers of 8 KiB). The head of a job is about 300 bytes.
MAX_HEAD_BYTES = 32 * 1024
# A header line's bytes besides name and value: a colon, a space, CR and LF.
_LINE_EXTRA_BYTES = 4
# An authority in Host: no userinfo (RFC 9112 §3.2), no comma (that would be two), no empty name.
AUTHORITY = rb"(\[[0-9A-Fa-f:.]+\]|(?:[A-Za-z0-9._~!$&'()*+;=-]|%[0-9A-Fa-f]{2})+)(?::([0-9]{0,5}))?"
HOST = re.compile(AUTHORITY)
_ABSOLUTE = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request, or one line of a batch, is not served: the answer's status and its text."""

    status: int
    detail: str


def is_authority(text: bytes) -> bool:
    r"""Whether `text` is allowed in Host.

    >>> [is_authority(text) for text in (b"a", b"[::1]:80", b"", b"a@b", b"a/", b"a b", b"a,b", rb"evil.com\@1")]
    [True, True, False, False, False, False, False, False]
    """
    return HOST.fullmatch(text) is not None


def malformed(reason: str) -> Refusal:
    """Return the refusal of a request that two HTTP servers could read differently, or not at all."""
    return Refusal(HTTPStatus.BAD_REQUEST, f"Malformed request: {reason}")


HEAD_TOO_LARGE = Refusal(
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"The request's head is larger than {MAX_HEAD_BYTES // 1024} kB"
)
NO_UPGRADE = Refusal(HTTPStatus.NOT_IMPLEMENTED, "Upgrade and CONNECT are not supported")


def refusal(version: str, headers: Sequence[tuple[bytes, bytes]]) -> Refusal | None:
    """Return why a request with this head is refused; None if it may pass. Names are in lower case.

    >>> refusal("1.1", [(b"host", b"a"), (b"host", b"a")]).detail
    'Malformed request: more than one Host'
    """
    if version not in ("1.1", "1.0"):
        return malformed(f"HTTP/{version}")
    for name, value in headers:
        if name == b"transfer-encoding":
            if version == "1.0":  # RFC 9112 §6.1: a reader of 1.0 does not know the field
                return malformed("Transfer-Encoding in HTTP/1.0")
            if value.strip(b" \t").lower() != b"chunked":
                return malformed("Transfer-Encoding other than chunked")
    return _host_refusal(version, [value for name, value in headers if name == b"host"])


def _host_refusal(version: str, hosts: Sequence[bytes]) -> Refusal | None:
    if len(hosts) > 1:
        return malformed("more than one Host")
    if not hosts:
        return malformed("no Host") if version == "1.1" else None
    return None if is_authority(hosts[0].strip(b" \t")) else malformed("invalid Host")


def authority_of(target: bytes) -> bytes | None:
    """Return the authority of an absolute-form target, which replaces Host (RFC 9112 §3.2.2); None for other forms.

    >>> authority_of(b"http://router:8000/run_code"), authority_of(b"/run_code"), authority_of(b"*")
    (b'router:8000', None, None)
    """
    found = _ABSOLUTE.match(target)
    return found[1] if found else None


def head_bytes(target: bytes, headers: Sequence[tuple[bytes, bytes]]) -> int:
    """Return the size of a head with these fields, without its method, version and optional spaces."""
    return len(target) + sum(len(name) + len(value) + _LINE_EXTRA_BYTES for name, value in headers)
