"""Decides which hosts may be added as workers at run time: addresses by network, names by pattern.

Without this list, anyone with the admin token could have the router send requests to any host of its network.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

_PATTERN = re.compile(r"[a-z0-9*?._-]+")
# Resolvers read a host that ends in a number as an IPv4 address, also 127.1, 0x7f000001 or 2130706433.
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")


def rule(text: str) -> IPv4Network | IPv6Network | str:
    """Return a network (10.0.0.0/8, fd00::/8, 10.0.0.7) or a pattern for names, with * and ?, in lower case.

    A * stands for a part of one label; only as the first character it stands for any number of labels. So node* does
    not allow node1.evil.org. Raises ValueError.

    >>> rule("*.Sandbox.svc"), rule("10.0.0.7")
    ('*.sandbox.svc', IPv4Network('10.0.0.7/32'))
    """
    name = text.lower()
    has_no_letter = not re.search("[a-z]", name) and name.strip("*?.")  # such as 10.0.0.*, which is no network
    if ":" in name or "/" in name or has_no_letter:
        return ip_network(name)
    if not _PATTERN.fullmatch(name):
        raise ValueError("no network, and no pattern for names")
    return name


class Allowed:
    """The hosts that `rules` allow. Without rules, no host is allowed."""

    def __init__(self, rules: Iterable[str]) -> None:
        parsed = [rule(text) for text in rules]
        self._networks = [each for each in parsed if not isinstance(each, str)]
        self._patterns = [re.compile(_as_regex(each)) for each in parsed if isinstance(each, str)]

    def permits(self, host: str) -> bool:
        """Whether `host`, a name or an address without brackets, may be a worker's.

        >>> allowed = Allowed(["10.0.0.0/8", "*.svc"])
        >>> [allowed.permits(host) for host in ("10.1.2.3", "a.svc", "a.svc.evil.org", "11.0.0.1", "167772161")]
        [True, True, False, False, False]
        """
        name = host.lower().removesuffix(".")
        address = _ip_address(name)
        if address is not None:
            return any(address in network for network in self._networks)
        if ends_in_number(name):
            return False
        return any(pattern.fullmatch(name) for pattern in self._patterns)


def _as_regex(pattern: str) -> str:
    first, rest = (".*", pattern.lstrip("*")) if pattern.startswith("*") else ("", pattern)
    within_label = re.escape(rest).replace(r"\*", "[^.]*").replace(r"\?", "[^.]")
    return first + within_label


def _ip_address(name: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(name)
    except ValueError:
        return None
    # ::ffff:10.0.0.1 is the same host as 10.0.0.1.
    return (address.ipv4_mapped or address) if isinstance(address, IPv6Address) else address


def ends_in_number(name: str) -> bool:
    """Whether resolvers read this host as an address, in any form, and not as a name."""
    return _NUMBER.fullmatch(name.rpartition(".")[2]) is not None
