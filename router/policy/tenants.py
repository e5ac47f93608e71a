"""Tenants: whose a job is, and what the scheduler has to know of them."""

import re

import msgspec

# The tenant of a job that names none.
DEFAULT = "default"
# Tenants beyond MAX_TENANTS share this name.
OTHER = "other"
MAX_TENANTS = 1000
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")


class TenantRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """One tenant's settings, as the sidecar publishes them.

    The scheduler goes by `weight`, `priority`, `max_running` and `max_waiting` (None: no limit). The router goes by
    `labels`, which all jobs of the tenant need, and by `client_budget` (None: that of all clients).
    """

    weight: int = 1
    priority: int = 0
    max_running: int | None = None
    max_waiting: int | None = None
    order: str = "arrival"
    labels: tuple[str, ...] = ()
    client_budget: str | float | None = None
