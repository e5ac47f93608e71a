"""The settings of tenants: what config.yaml says of each, and what is set of each at run time."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from router.config.bounds import MAX_COUNT, MAX_PRIORITY, MAX_REUSE_KB, MAX_REUSE_S, MAX_TENANT_WEIGHT
from router.config.section import Budget, Count, Section
from router.config.workers import Labels
from router.policy.tenants import MAX_TENANTS, NAME, WANTED, ReuseRule, TenantRule


def _name(text: object) -> object:
    if not isinstance(text, str):
        raise PydanticCustomError("name", "expected a name in quotes")
    if not NAME.fullmatch(text):
        raise PydanticCustomError("name", WANTED)
    return text


TenantName = Annotated[str, BeforeValidator(_name)]
Weight = Annotated[int, Field(ge=1, le=MAX_TENANT_WEIGHT)]
Priority = Annotated[int, Field(ge=-MAX_PRIORITY, le=MAX_PRIORITY)]
Waiting = Annotated[int, Field(ge=0, le=MAX_COUNT)]
Order = Literal["arrival", "longest_first"]


class TenantReuse(Section):
    """How a tenant's identical jobs share one run."""

    model_config = ConfigDict(from_attributes=True)

    seconds: Annotated[float, Field(ge=0, le=MAX_REUSE_S)]
    """for so long a final answer serves further ones; 0: they share no run. The header `x-router-reuse` wins"""
    max_kb: Annotated[int, Field(ge=1, le=MAX_REUSE_KB)] = 64
    """a larger answer is not kept"""

    def rule(self) -> ReuseRule:
        """Return the settings as the routers take them."""
        return ReuseRule(**dict(self))


class TenantSettings(Section):
    """One tenant: a training run, a team, whose jobs share the fleet with those of others."""

    weight: Weight = 1
    """its share of the busy slots: a tenant of weight 3 gets three for each slot of a tenant of weight 1"""
    priority: Priority = 0
    """jobs of a higher priority go first, whatever the weights"""
    max_running: Count | None = None
    """how many of its jobs may run at once, over the whole fleet; none: any number"""
    max_waiting: Waiting | None = None
    """how many of its jobs may be pending; the next one gets 503 at once; none: only `queue.max_waiting` counts"""
    order: Order = "arrival"
    """in which order its own jobs go. `arrival`: first come, first served; `longest_first`: the one that is expected to
    take longest, and before it those that have waited for half of the time for which they may be pending"""
    labels: Labels = ()
    """labels that a worker needs to run its jobs"""
    client_budget: Budget | None = None
    """how long its clients wait, as the key of this name at the top; none: as that one says"""
    reuse: TenantReuse | None = None
    """whether identical jobs share one run, and for how long its answer serves further ones; none: they do not"""

    def rule(self) -> TenantRule:
        """Return the settings as the scheduler and the routers take them."""
        reuse = ReuseRule() if self.reuse is None else self.reuse.rule()
        return TenantRule(**{**dict(self), "reuse": reuse})


class TenantOverrides(Section):
    """What is set of a tenant at run time; it wins over config.yaml. Null or absent: not set."""

    weight: Weight | None = None
    priority: Priority | None = None
    max_running: Count | None = None
    max_waiting: Waiting | None = None
    order: Order | None = None
    labels: Labels | None = None
    client_budget: Budget | None = None
    reuse: TenantReuse | None = None

    def over(self, rule: TenantRule) -> TenantRule:
        """Return `rule` with what is set here.

        >>> TenantOverrides(weight=3).over(TenantRule(priority=1)) == TenantRule(weight=3, priority=1)
        True
        """
        fields = {name: value for name, value in self if value is not None}
        if self.reuse is not None:
            fields["reuse"] = self.reuse.rule()
        return msgspec.structs.replace(rule, **fields)


def _few(tenants: Mapping[str, TenantSettings]) -> Mapping[str, TenantSettings]:
    if len(tenants) > MAX_TENANTS:
        wanted = "expected at most {most} tenants, got {given}"
        raise PydanticCustomError("tenants", wanted, {"most": MAX_TENANTS, "given": len(tenants)})
    return tenants


# `run-7:` without a value is a tenant with the defaults.
_Each = Annotated[TenantSettings, BeforeValidator(lambda value: {} if value is None else value)]
TenantsByName = Annotated[dict[TenantName, _Each], AfterValidator(_few)]


def rules_of(tenants: Mapping[str, TenantSettings]) -> dict[str, TenantRule]:
    """Return the rules of config.yaml's tenants, by name."""
    return {name: settings.rule() for name, settings in tenants.items()}
