"""The rules of tenants in Redis: those in force, and what is set at run time.

The sidecar publishes the rules, which are config.yaml's with what is set at run time over them. Routers and the
scheduler go by what is published.
"""

import logging
from collections.abc import Mapping

from pydantic import ConfigDict, ValidationError

from router.config.tenants import TenantSettings
from router.policy.tenants import NAME, TenantRule

log = logging.getLogger(__name__)

# So much of an entry is shown that cannot be read.
_SHOWN_CHARACTERS = 200


class _Published(TenantSettings):
    """A rule as it stands in Redis. The sidecar of a newer release may say more of a tenant."""

    model_config = ConfigDict(extra="ignore")


def read_rules(held: Mapping[str, str]) -> dict[str, TenantRule]:
    """Return the published rules by name. One that cannot be read, as after a slip with redis-cli, is left out."""
    rules: dict[str, TenantRule] = {}
    for name, text in held.items():
        try:
            rule = _Published.model_validate_json(text).rule()
        except ValidationError as error:
            log.warning("Redis holds no readable rule of tenant %s: %s", shown(name), flaw(error))
            continue
        if NAME.fullmatch(name):
            rules[name] = rule
        else:
            log.warning("Redis holds a rule of a tenant that can have no such name: %s", shown(name))
    return rules


def flaw(error: ValidationError) -> str:
    """Return in one line what is wrong with an entry, and where.

    >>> try: _Published.model_validate_json('{"weight": 0}')
    ... except ValidationError as error: flaw(error)
    'weight: expected greater than or equal to 1, got 0'
    """
    return "; ".join(
        f"{'.'.join(map(str, each['loc']))}: {message}, got {shown(each['input'])}" if each["loc"] else message
        for each in error.errors()
        for message in (each["msg"].replace("Input should be", "expected", 1),)
    )


def shown(value: object) -> str:
    """Return a value for a message, cut where it is long."""
    return repr(value)[:_SHOWN_CHARACTERS]
