"""Which requests may be a page of another site's: a browser sends them for it, from inside the network.

No page can choose what its browser says of it in Host, Origin and Sec-Fetch-Site. Programs send none of the last two.
"""

import re
from collections.abc import Collection, Sequence
from ipaddress import IPv6Address, ip_address

from router.config.allowlist import Allowed
from router.policy.request_head import AUTHORITY, HOST

Fields = Sequence[tuple[bytes, bytes]]

_ORIGIN = re.compile(rb"(https?)://" + AUTHORITY, re.IGNORECASE)
_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}
# What a browser says of a request that its user or this site's own page has made.
_OWN = (b"same-origin", b"none")


def host_name(authority: bytes) -> str:
    """Return the name or address in it, without brackets and port; empty where it is no authority."""
    found = HOST.fullmatch(authority)
    return found[1].decode("ascii").strip("[]").lower() if found else ""


def is_loopback(host: str) -> bool:
    """Whether this name or address leads to the host that uses it, wherever DNS leads."""
    try:
        address = ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761 §6.3
    if isinstance(address, IPv6Address) and address.ipv4_mapped:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


def is_same(origin: bytes, authority: bytes) -> bool:
    """Whether a page of this origin came from where Host leads. Schemes may differ: TLS may end at a proxy.

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
    """Whether a page of another site may have made a request with these headers; `allowed` are origins that may.

    Names are in lower case, as are the allowed origins.
    """
    origins = [value for name, value in headers if name == b"origin"]
    if origins and all(origin.lower().decode("latin-1") in allowed for origin in origins):
        return False
    authority = next((value for name, value in headers if name == b"host"), b"")
    sites = [value for name, value in headers if name == b"sec-fetch-site"]
    return not all(is_same(origin, authority) for origin in origins) or not all(site in _OWN for site in sites)


class Pages:
    """Whose requests are taken. `cors_origins` are other sites whose pages may send jobs.

    `trusted_hosts` are the names, besides those of loopback, by which the router may be asked; none: any.
    """

    def __init__(self, cors_origins: Collection[str], trusted_hosts: Collection[str]) -> None:
        self._origins = frozenset(cors_origins)
        self._named = {host_name(origin.partition("://")[2].encode()) for origin in cors_origins}
        self._hosts = Allowed(trusted_hosts) if trusted_hosts else None

    def job_refusal(self, headers: Fields) -> str | None:
        """Return why a job with these headers is refused; None where it is not."""
        if reason := self.refusal(headers):
            return reason
        if is_foreign(headers, self._origins):
            return "Jobs are not taken from pages of other sites, unless cors_origins in config.yaml has theirs"
        return None

    def refusal(self, headers: Fields) -> str | None:
        """Return why any request with these headers is refused: a name that is not this router's may be an attacker's.

        He lets it lead here once his page is loaded, which then counts as of this site (DNS rebinding).
        """
        if self._hosts is None:
            return None
        host = host_name(next((value for name, value in headers if name == b"host"), b""))
        if is_loopback(host) or host in self._named or self._hosts.permits(host):
            return None
        return (
            "The request's Host is no name of this router; trusted_hosts in config.yaml lists them, besides loopback's"
        )
