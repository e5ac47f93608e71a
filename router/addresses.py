"""What can be an address: a worker's, Redis', a DNS name's, a collector's. Nothing is looked up, nobody is asked."""

import re
from urllib.parse import urlsplit

from pydantic_core import PydanticCustomError

_NAME = re.compile(r"[A-Za-z0-9._-]+")
_HOST = re.compile(rf"{_NAME.pattern}|\[[0-9A-Fa-f:.]+\]")
_ORIGIN = re.compile(rf"(?P<scheme>https?)://(?P<host>{_HOST.pattern})(?::(?P<port>[1-9][0-9]{{0,4}}))?")
_PORTS = 2**16
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def worker_url(text: str) -> str:
    """Return `text` in the one form by which a worker is known everywhere: no trailing slash, host in lower case.

    >>> worker_url("HTTP://Server1:8080/")
    'http://server1:8080'

    Raises PydanticCustomError (a ValueError) where no job could be sent to such an address.
    """
    wrong = PydanticCustomError("worker_url", "expected a URL such as http://server1:8080")
    if not text.isascii() or any(character <= " " for character in text):
        raise wrong
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise wrong from error
    host = parts.netloc.rpartition(":")[0] if port is not None else parts.netloc
    if parts.scheme not in ("http", "https") or not _HOST.fullmatch(host) or port == 0:
        raise wrong
    if parts.query or parts.fragment:
        raise PydanticCustomError("worker_url", "expected a URL without ? or #")
    path = parts.path.rstrip("/")
    if path.endswith("/run_code"):
        raise PydanticCustomError("worker_url", "expected the worker's address without /run_code")
    return f"{parts.scheme}://{parts.netloc.lower()}{path}"


def otlp_url(text: str) -> str:
    """Return `text` where spans could be sent there. Raises PydanticCustomError."""
    wrong = PydanticCustomError("otlp_url", "expected a whole URL such as http://collector:4318/v1/traces")
    try:
        url = worker_url(text)  # what no job could be sent to, no span could
    except PydanticCustomError as error:
        raise wrong from error
    if not urlsplit(url).path:
        raise wrong
    return url


def redis_url(text: str) -> str:
    """Return `text` where Redis may be there. Raises PydanticCustomError."""
    parts = urlsplit(text)
    wanted = {
        "redis": bool(parts.netloc),
        "rediss": bool(parts.netloc),
        "unix": bool(parts.path),
        "redis+sentinel": bool(parts.netloc and parts.path.strip("/")),
    }
    if wanted.get(parts.scheme):
        return text
    example = "host1:26379,host2:26379/mymaster/0" if parts.scheme == "redis+sentinel" else "localhost:6379/0"
    scheme = parts.scheme if parts.scheme in wanted else "redis"
    raise PydanticCustomError("redis_url", "expected a URL such as {url}", {"url": f"{scheme}://{example}"})


def origin(text: str) -> str:
    """Return `text` as a browser names a page's origin: in lower case, without a default port.

    >>> origin("HTTPS://Lab.example:443")
    'https://lab.example'

    Raises PydanticCustomError.
    """
    found = _ORIGIN.fullmatch(text.lower())
    if found is None or int(found["port"] or 0) >= _PORTS:
        raise PydanticCustomError("origin", "expected an origin such as https://lab.example:8443, without a path")
    scheme, host, port = found.groups()
    return f"{scheme}://{host}" if port in (None, _DEFAULT_PORTS[scheme]) else f"{scheme}://{host}:{port}"


def dns_name(text: str) -> str:
    """Return `text` where it is a name:port. Raises PydanticCustomError."""
    name, _, port = text.rpartition(":")
    if not _NAME.fullmatch(name) or not port.isdigit() or not 0 < int(port) < _PORTS:
        raise PydanticCustomError("dns_name", "expected name:port such as sandbox-workers:8080")
    return text
