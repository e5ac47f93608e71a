"""Decides what is a valid address of a worker, of Redis, of a DNS name or of a collector. Nothing is resolved.

It also decides which parts of an address may be shown, because a rejected one may hold a password.
"""

import re
from functools import lru_cache
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from urllib.parse import urlsplit

import idna
from pydantic_core import PydanticCustomError

from router.config.allowlist import ends_in_number

_NAME = re.compile(r"[A-Za-z0-9._-]+")
# No user and no password, because the URLs of workers appear in logs, in answers and in Redis.
_NETLOC = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\[\]:@]+)(?::0*([0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_-]+")
# No %, no empty segment and none of only dots: programs read these differently, and so would ask different workers.
_PATH = re.compile(r"(/(?!\.\.?(/|$))[A-Za-z0-9._~!$&'()*+,;=:@-]+)*")
_HOST = re.compile(rf"{_NAME.pattern}|\[[0-9A-Fa-f:.]+\]")
_ORIGIN = re.compile(rf"(?P<scheme>https?)://(?P<host>{_HOST.pattern})(?::(?P<port>[1-9][0-9]{{0,4}}))?")
_PORTS = 2**16
_DEFAULT_PORTS = {"http": 80, "https": 443}
# The limits of DNS (RFC 1035 §2.3.4). Beyond them, resolvers and Python's idna raise other errors.
_LABEL_CHARACTERS, _NAME_CHARACTERS = 63, 253
_URL_CHARACTERS = 2_000
_SHOWN_CHARACTERS = 200


def worker_url(text: str) -> str:
    """Return `text` in the one form by which a worker is known everywhere.

    Scheme and host are in lower case, names are encoded for DNS (IDNA) and lose a final dot, addresses are in their
    shortest form. A default port, a trailing slash and /run_code are removed.

    >>> worker_url("HTTP://Server1.:080/run_code/"), worker_url("http://[::FFFF:10.0.0.7]:8080")
    ('http://server1', 'http://10.0.0.7:8080')

    Raises PydanticCustomError (a ValueError) if no job could be sent to this address.
    """
    if not text.isprintable() or " " in text or len(text) > _URL_CHARACTERS:
        raise _no_worker_url()
    try:
        parts = urlsplit(text)
    except ValueError as error:
        raise _no_worker_url() from error
    found = _NETLOC.fullmatch(parts.netloc)
    default_port = _DEFAULT_PORTS.get(parts.scheme)
    if found is None or default_port is None:
        raise _no_worker_url()
    host, port = _host(found[1]), int(found[2] or default_port)
    if not 0 < port < _PORTS:
        raise _no_worker_url("a port is 1 to 65535")
    if parts.query or parts.fragment:
        raise PydanticCustomError("worker_url", "expected a URL without ? or #")
    path = parts.path.rstrip("/").removesuffix("/run_code").rstrip("/")
    if not _PATH.fullmatch(path):
        raise _no_worker_url("its path may hold letters, digits and -._~!$&'()*+,;=:@ between single slashes")
    return f"{parts.scheme}://{host}{'' if port == default_port else f':{port}'}{path}"


@lru_cache(maxsize=10_000)
def known_worker_url(text: str) -> str | None:
    """Return `worker_url(text)`, or None if it raises. It is cached, for texts that are read again and again."""
    try:
        return worker_url(text)
    except ValueError:
        return None


def masked(text: str) -> str:
    """Return `text`, which may be a URL, without its user, its password and the values of its query.

    In doubt it masks too much rather than too little.

    >>> masked("redis://me:secret@a:1/0?db=1"), masked("me:se/cret@a"), masked("node1:8080")
    ('redis://***@a:1/0?db=***', '***@a', 'node1:8080')
    """
    without_user = re.sub(r"^(\s*[A-Za-z][A-Za-z0-9+.-]*:/+)?.*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"([?&;#][^=&;#]*=)[^&;#]*", r"\1***", without_user)


def shown(text: str) -> str:
    """Return text from outside as messages repeat it: masked, and not all of a long one."""
    return masked(text)[:_SHOWN_CHARACTERS]


def _no_worker_url(reason: str = "") -> PydanticCustomError:
    message = "expected a URL such as http://server1:8080"
    return PydanticCustomError("worker_url", f"{message}: {{reason}}" if reason else message, {"reason": reason})


def _host(text: str) -> str:
    """Return a URL's host in the one form by which it is known. Raises PydanticCustomError."""
    if text.startswith("["):
        try:
            address = IPv6Address(text[1:-1])
        except AddressValueError as error:
            raise _no_worker_url("its host is no IPv6 address") from error
        # ::ffff:10.0.0.7 is the same host as 10.0.0.7.
        return str(address.ipv4_mapped or f"[{address}]")
    try:
        # ASCII names do not go through idna, because it rejects the _ that many container names have.
        name = text.lower() if text.isascii() else idna.encode(text, uts46=True).decode("ascii")
    except UnicodeError as error:
        raise _no_worker_url("its host is no name that DNS could know") from error
    name = name.removesuffix(".")
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise _no_worker_url("a host's name is letters, digits, - and _, and single dots between")
    if len(name) > _NAME_CHARACTERS or max(map(len, labels)) > _LABEL_CHARACTERS:
        raise _no_worker_url("a host's name is 253 characters at most, and 63 between two dots")
    if ends_in_number(name):
        try:
            return str(IPv4Address(name))
        except AddressValueError as error:
            # Some programs accept 10.1 and 010.0.0.7, but they disagree on which addresses these are.
            raise _no_worker_url("an IPv4 address is four numbers of 0 to 255, without leading zeros") from error
    return name


def otlp_url(text: str) -> str:
    """Return `text` if spans can be sent there. Raises PydanticCustomError."""
    wrong = PydanticCustomError("otlp_url", "expected a whole URL such as http://collector:4318/v1/traces")
    try:
        url = worker_url(text)  # an address for spans must meet the same rules
    except PydanticCustomError as error:
        raise wrong from error
    if not urlsplit(url).path:
        raise wrong
    return url


def redis_url(text: str) -> str:
    """Return `text` if it is a URL of Redis. Raises PydanticCustomError."""
    try:
        parts = urlsplit(text)
        is_good = {
            "redis": bool(parts.netloc) and _has_good_port(parts.netloc),
            "rediss": bool(parts.netloc) and _has_good_port(parts.netloc),
            "unix": bool(parts.path),
            "redis+sentinel": _names_sentinels(parts.netloc, parts.path),
        }
    except ValueError as error:
        raise _no_redis_url("redis") from error
    if is_good.get(parts.scheme) and text.isprintable():
        return text
    raise _no_redis_url(parts.scheme if parts.scheme in is_good else "redis")


def _no_redis_url(scheme: str) -> PydanticCustomError:
    example = "host1:26379,host2:26379/mymaster/0" if scheme == "redis+sentinel" else "localhost:6379/0"
    return PydanticCustomError("redis_url", "expected a URL such as {url}", {"url": f"{scheme}://{example}"})


def _has_good_port(address: str) -> bool:
    _, colon, port = address.rpartition("@")[2].rpartition(":")
    return not colon or "]" in port or (port.isascii() and port.isdigit() and 0 < int(port[:6]) < _PORTS)


def _names_sentinels(netloc: str, path: str) -> bool:
    hosts = netloc.rpartition("@")[2].split(",")
    name, _, database = path.strip("/").partition("/")
    is_number = not database or (database.isascii() and database.isdigit())
    return bool(name) and is_number and all(host and _has_good_port(host) for host in hosts)


def origin(text: str) -> str:
    """Return `text` as browsers write a page's origin: in lower case, without a default port.

    >>> origin("HTTPS://Lab.example:443")
    'https://lab.example'

    Raises PydanticCustomError.
    """
    found = _ORIGIN.fullmatch(text.lower())
    if found is None or int(found["port"] or 0) >= _PORTS:
        raise PydanticCustomError("origin", "expected an origin such as https://lab.example:8443, without a path")
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" if port in (None, str(_DEFAULT_PORTS[scheme])) else f"{scheme}://{host}:{port}"


def dns_name(text: str) -> str:
    """Return `text` if it is a name:port. Raises PydanticCustomError."""
    name, _, port = text.rpartition(":")
    wrong = PydanticCustomError("dns_name", "expected name:port such as sandbox-workers:8080")
    if not _NAME.fullmatch(name) or not port.isdigit():
        raise wrong
    try:
        worker_url(f"http://{name}:{port}")  # a name must meet the same rules as a worker's host
    except PydanticCustomError as error:
        raise wrong from error
    return text
