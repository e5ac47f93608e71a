"""Decides what an operator may do to the tenants: for the admin API and for `sfr --redis`. It knows no HTTP."""

from typing import Self

import msgspec
from pydantic import model_validator
from pydantic_core import PydanticCustomError

from router.api.schemas import AdminTenant, TenantCounts
from router.config.tenants import TenantOverrides
from router.fleet.counters import Counters
from router.fleet.stats import TenantStats, TenantUsage
from router.fleet.tenants import Tenants
from router.policy.tenants import DEFAULT, MAX_TENANTS, TenantRule

_IDLE = TenantUsage(0, 0, TenantStats())


class TooManyTenants(Exception):
    """As many tenants have a rule of their own as may have one."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} can have no rule of its own: {MAX_TENANTS} tenants have one, and more may not")


class TenantChanges(TenantOverrides):
    """New values for some fields of a tenant's rule; null: no longer set. A field that is absent stays as it is."""

    @model_validator(mode="after")
    def _changes_something(self) -> Self:
        if not self.model_fields_set:
            raise PydanticCustomError("changes", f"expected one or more of {', '.join(type(self).model_fields)}")
        return self


class TenantAdmin:
    """Lists the tenants, and changes their rules. Each method may raise RedisUnavailable."""

    def __init__(self, tenants: Tenants, counters: Counters) -> None:
        self._tenants = tenants
        self._counters = counters

    async def list(self, name: str | None = None) -> list[AdminTenant]:
        """Return all tenants that have a rule of their own or counts, and before them `default`.

        With `name`, return that one alone.
        """
        rules, overrides = await self._tenants.standing()
        used = (await self._counters.usage([])).tenants
        known = rules.keys() | overrides.keys() | used.keys()
        names = [DEFAULT, *sorted(known - {DEFAULT})] if name is None else [name]
        default = _set_over(rules.get(DEFAULT, TenantRule()), overrides.get(DEFAULT))
        return [
            AdminTenant(
                name=each,
                listed=each in rules or each in overrides,
                overrides=overrides.get(each, TenantOverrides()),
                counts=TenantCounts.of(used.get(each, _IDLE)),
                **msgspec.structs.asdict(_set_over(rules.get(each, default), overrides.get(each))),
            )
            for each in names
        ]

    async def one(self, name: str) -> AdminTenant:
        """Return one tenant; it need not have a rule of its own."""
        (found,) = await self.list(name)
        return found

    async def change(self, name: str, changes: TenantChanges) -> None:
        """Set fields of a tenant's rule. Raises TooManyTenants."""
        rules, overrides = await self._tenants.standing()
        if name not in rules and len(rules.keys() | overrides.keys() - {name}) >= MAX_TENANTS:
            raise TooManyTenants(name)
        await self._tenants.override(name, {field: getattr(changes, field) for field in changes.model_fields_set})

    async def reset(self, name: str) -> None:
        """Forget all that is set of a tenant; config.yaml's rule holds again."""
        await self._tenants.reset(name)


def _set_over(rule: TenantRule, overrides: TenantOverrides | None) -> TenantRule:
    """Return the rule as it will be once the sidecar has seen these overrides, a moment after they are set."""
    return rule if overrides is None else overrides.over(rule)
