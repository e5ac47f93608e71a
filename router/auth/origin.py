"""Decides which requests may come from a page of another site, sent by a browser inside the network.

A page cannot choose what its browser writes into Host, Origin and Sec-Fetch-Site. Programs send neither of the last
two.
"""

import re
from collections.abc import Collection, Sequence
from ipaddress import IPv6Address, ip_address

from router.config.allowlist import Allowed
from router.policy.request_head import AUTHORITY, HOST

Fields = Sequence[tuple[bytes, bytes]]

_ORIGIN = re.compile(rb"(https?)://" + AUTHORITY, re.IGNORECASE)
_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}
# The Sec-Fetch-Site of a request that the browser's user, or a page of this site, has made.
_OWN = (b"same-origin", b"none")


def host_name(authority: bytes) -> str:
    """Return the name or address in an authority, without brackets and port; empty if it is no authority."""
    found = HOST.fullmatch(authority)
    return found[1].decode("ascii").strip("[]").lower() if found else ""


def is_loopback(host: str) -> bool:
    """Whether this name or address means the host that uses it, whatever DNS says."""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761 §6.3
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def is_same(origin: bytes, authority: bytes) -> bool:
    """Whether a page of this origin came from the host and port in Host. Schemes may differ: TLS may end at a proxy.

    >>> is_same(b"https://a", b"A:443"), is_same(b"http://localhost:8000", b"127.0.0.1:8000")
    (True, True)
    >>> is_same(b"http://localhost:3000", b"localhost:8000"), is_same(b"null", b"a")
    (False, False)
    """
    page, here = _ORIGIN.fullmatch(origin), HOST.fullmatch(authority)
    if page is None or here is None:
        return False
    default = _DEFAULT_PORTS[page[1].lower()]
    if (page[3] or default) != (here[2] or default):
        return False
    names = [each.decode("ascii").strip("[]").lower() for each in (page[2], here[1])]
    return names[0] == names[1] or all(map(is_loopback, names))


def is_foreign(headers: Fields, allowed: Collection[str] = ()) -> bool:
    """Whether a page of another site may have sent a request with these headers.

    Pages of the `allowed` origins do not count. Header names and allowed origins are in lower case.
    """
    origins = [value for name, value in headers if name == b"origin"]
    if origins and all(origin.lower().decode("latin-1") in allowed for origin in origins):
        return False
    authority = next((value for name, value in headers if name == b"host"), b"")
    sites = [value for name, value in headers if name == b"sec-fetch-site"]
    return not all(is_same(origin, authority) for origin in origins) or not all(site in _OWN for site in sites)


class Pages:
    """Refuses requests of other sites' pages. `cors_origins` are the sites whose pages may send jobs.

    `trusted_hosts` are the names, besides loopback's, that a request's Host may have; if empty, Host may be any name.
    """

    def __init__(self, cors_origins: Collection[str], trusted_hosts: Collection[str]) -> None:
        self._origins = frozenset(cors_origins)
        self._named = {host_name(origin.partition("://")[2].encode()) for origin in cors_origins}
        self._hosts = Allowed(trusted_hosts) if trusted_hosts else None

    def job_refusal(self, headers: Fields) -> str | None:
        """Return why a job with these headers is refused; None if it may pass."""
        if reason := self.refusal(headers):
            return reason
        if is_foreign(headers, self._origins):
            return "Jobs are not taken from pages of other sites, unless cors_origins in config.yaml has theirs"
        return None

    def refusal(self, headers: Fields) -> str | None:
        """Return why any request with these headers is refused, for a Host that is no name of this router.

        Such a name may be an attacker's. Once the browser has loaded its page, the attacker points the name at this
        router, and the page then counts as one of this site (DNS rebinding).
        """
        if self._hosts is None:
            return None
        host = host_name(next((value for name, value in headers if name == b"host"), b""))
        if is_loopback(host) or host in self._named or self._hosts.permits(host):
            return None
        return (
            "The request's Host is no name of this router; trusted_hosts in config.yaml lists them, besides loopback's"
        )
