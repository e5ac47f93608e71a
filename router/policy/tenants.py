"""Tenants: whose a job is, and what the scheduler has to know of them.

A client names the tenant by a URL's prefix (`/t/NAME/run_code`) or by a header. Where jobs need API keys, the name of
the key is the tenant's.
"""

import re
from collections import OrderedDict
from collections.abc import Container

import msgspec

# The tenant of a job that names none.
DEFAULT = "default"
# In which order a tenant's jobs go: as they come, or the longest ones first.
ARRIVAL, LONGEST_FIRST = "arrival", "longest_first"
# Tenants beyond MAX_TENANTS share this name.
OTHER = "other"
MAX_TENANTS = 1000
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
# Paths of a tenant's own begin with this.
PREFIX = "/t/"
# A tenant without a new job for this long has no job left: none takes so long by default, waiting included.
FORGET_AFTER_S = 600.0

_LONGEST = 64
WANTED = f"expected a name of 1 to {_LONGEST} characters, each of A-Z a-z 0-9 . _ -"
_OUTSIDE = re.compile(r"[^A-Za-z0-9._-]")
# As much of a bad name is repeated to its client.
_SHOWN = 80


class ReuseRule(msgspec.Struct, frozen=True):
    """For how many `seconds` an answer serves identical jobs, if it has at most `max_kb`; 0: these share no run."""

    seconds: float = 0.0
    max_kb: int = 64


class TenantRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tenant's settings, as the sidecar publishes them.

    The scheduler goes by `weight`, `priority`, `order`, `max_running` and `max_waiting` (None: no limit). The router
    goes by `labels`, which all jobs of the tenant need, by `client_budget` (None: that of all clients), and by `reuse`.
    """

    weight: int = 1
    priority: int = 0
    max_running: int | None = None
    max_waiting: int | None = None
    order: str = ARRIVAL
    labels: tuple[str, ...] = ()
    client_budget: str | float | None = None
    reuse: ReuseRule = ReuseRule()


def of_key(key_name: str) -> str:
    """Return the tenant of the jobs of an API key with this name; "" if the key has no name.

    >>> of_key("run-7"), of_key("Ada Lovelace"), len(of_key("x" * 100)), of_key("")
    ('run-7', 'Ada-Lovelace', 64, '')
    """
    return _OUTSIDE.sub("-", key_name)[:_LONGEST]


def split(path: str) -> tuple[str, str] | None:
    """Return the name in a path of a tenant's own, which may be a bad one, and the path without the prefix.

    None if it is no such path. A client whose base URL ends in a slash may send two of them.

    >>> split("/t/run-7/run_code"), split("/t/run-7"), split("/t/run-7//run_code"), split("/t//run_code")
    (('run-7', '/run_code'), ('run-7', '/'), ('run-7', '/run_code'), ('', '/run_code'))
    >>> split("/run_code"), split("/t"), split("/tests/a")
    (None, None, None)
    """
    if not path.startswith(PREFIX):
        return None
    name, _, rest = path.removeprefix(PREFIX).partition("/")
    return name, f"/{rest.lstrip('/')}"


def flaw(name: str) -> str | None:
    """Return why no tenant may have this name; None if one may.

    >>> flaw("run-7"), flaw("a b")
    (None, "Tenant 'a b': expected a name of 1 to 64 characters, each of A-Z a-z 0-9 . _ -")
    """
    if NAME.fullmatch(name):
        return None
    shown = name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…"
    return f"Tenant {shown!r}: {WANTED}"


class KnownTenants:
    """The tenants whose jobs this process has seen: at most `most` at a time, and all beyond these are OTHER.

    So neither Redis nor a metric has to hold more names, however many a client invents. A name is forgotten when it had
    no new job for `forget_after_s` seconds and another one needs its place.
    """

    def __init__(self, most: int = MAX_TENANTS, forget_after_s: float = FORGET_AFTER_S) -> None:
        self._most = most
        self._forget_after_s = forget_after_s
        self._last_jobs: OrderedDict[str, float] = OrderedDict()  # name → the moment of its last job, oldest first

    def name_for(self, name: str, now: float, configured: Container[str] = ()) -> str:
        """Return the tenant of a job that comes `now` and names `name`: that one, or OTHER if there is no place for it.

        Names that are `configured`, and those that the router gives itself, always have their place.
        """
        if name in configured or name in (DEFAULT, OTHER):
            return name
        known = self._last_jobs
        if name not in known and len(known) >= self._most:
            longest_silent, last_job = next(iter(known.items()))
            if now - last_job < self._forget_after_s:
                return OTHER
            del known[longest_silent]
        known[name] = now
        known.move_to_end(name)
        return name
