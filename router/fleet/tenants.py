"""The rules of tenants in Redis: those in force, and what operators set at run time.

The leading sidecar publishes the rules: config.yaml's, with what is set at run time over them. Routers and the
scheduler go by what is published.
"""

import json
import logging
from collections.abc import Mapping

import msgspec
from pydantic import ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from router.config.flaws import place_of, told
from router.config.tenants import TenantOverrides, TenantSettings
from router.fleet.leadership import Term
from router.fleet.redis_client import RedisClient, RedisUnavailable, RefusedCommand
from router.fleet.schema import SCHEMA_VERSION
from router.policy.tenants import DEFAULT, MAX_TENANTS, NAME, WANTED, TenantRule

log = logging.getLogger(__name__)

# More operators than that do not change one tenant within a moment.
_TRIES = 100
# So much of an entry is shown that cannot be read.
_SHOWN_CHARACTERS = 200


class _Published(TenantSettings):
    """A rule as it stands in Redis. The sidecar of a newer release may say more of a tenant."""

    model_config = ConfigDict(extra="ignore")


class Tenants:
    """Reads and writes the tenants of one fleet in Redis. Every method raises RedisUnavailable."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis
        self._keys = redis.keys
        self._publish = redis.register("tenants")
        self._set = redis.register("set_tenant")

    async def publish(self, term: Term, rules: Mapping[str, TenantRule]) -> bool:
        """Make `rules` those in force, and tell the routers if these were others; return False if `term` is over."""
        keys = self._keys
        held, marks = await self._redis.ask_each(
            ("HGETALL", keys.tenants), ("HMGET", keys.fleet, "tenants_at", "schema")
        )
        if isinstance(marks, RefusedCommand):
            raise RedisUnavailable(f"{keys.fleet}: {marks.reason}")
        tenants_at, schema = marks
        wanted = {name: msgspec.json.encode(rule).decode() for name, rule in rules.items()}
        if held == wanted and tenants_at is not None and schema == str(SCHEMA_VERSION):
            return True
        flat = json.dumps([text for item in wanted.items() for text in item])
        is_written = bool(await self._redis.ask(self._publish(str(term), flat, SCHEMA_VERSION)))
        if is_written and held != wanted:
            log.info("Rules of %d tenants are in force", len(wanted))
        return is_written

    async def standing(self) -> tuple[dict[str, TenantRule], Mapping[str, TenantOverrides]]:
        """Return the rules in force, and what is set at run time, by name."""
        rules, overrides = await self._redis.ask_all(
            ("HGETALL", self._keys.tenants), ("HGETALL", self._keys.tenants_intent)
        )
        return read_rules(rules), read_overrides(overrides)[0]

    async def override(self, name: str, changes: Mapping[str, object]) -> None:
        """Set fields of TenantOverrides at run time; None: not set any more. Other fields stay as they are."""
        for _ in range(_TRIES):  # until nobody else has changed the same tenant meanwhile
            (before,) = await self._redis.ask_all(("HGET", self._keys.tenants_intent, name))
            held = _overrides(before or "{}")[0]
            after = TenantOverrides.model_validate({**held.model_dump(), **changes})
            text = "" if after == TenantOverrides() else after.model_dump_json(exclude_none=True)
            if await self._redis.ask(self._set(name, before or "", text)):
                return
        # What redis-cli has written is perhaps no UTF-8, and so never what has been read.
        raise RedisUnavailable(f"{self._keys.tenants_intent}: what it holds of {name} cannot be read: reset it first")

    async def restore(self, lost: Mapping[str, TenantOverrides], held: Mapping[str, TenantOverrides]) -> None:
        """Set again what Redis has `lost`, field by field; what it has `held` since then stays."""
        for name, overrides in lost.items():
            newer = held.get(name, TenantOverrides()).model_dump(exclude_none=True)
            if missing := {
                field: value for field, value in overrides.model_dump(exclude_none=True).items() if field not in newer
            }:
                await self.override(name, missing)

    async def reset(self, name: str) -> None:
        """Forget all that is set of a tenant at run time."""
        await self._redis.transaction(("HDEL", self._keys.tenants_intent, name), ("PUBLISH", self._keys.wishes, name))


def rules_in_force(
    configured: Mapping[str, TenantSettings], overrides: Mapping[str, TenantOverrides]
) -> tuple[dict[str, TenantRule], tuple[str, ...]]:
    """Return each tenant's rule by name, and the names of those that are too many to have one.

    What is set of a tenant that config.yaml does not name goes over the rule of `default`.
    """
    rules = {name: settings.rule() for name, settings in configured.items()}
    default = overrides.get(DEFAULT, TenantOverrides()).over(rules.get(DEFAULT, TenantRule()))
    left_out = []
    for name in sorted(overrides):
        if name not in rules and len(rules) >= MAX_TENANTS:
            left_out.append(name)
        else:
            rules[name] = default if name == DEFAULT else overrides[name].over(rules.get(name, default))
    return rules, tuple(left_out)


def read_rules(held: Mapping[str, str]) -> dict[str, TenantRule]:
    """Return the published rules by name. One that cannot be read, as after a slip with redis-cli, is left out."""
    rules: dict[str, TenantRule] = {}
    for name, text in held.items():
        try:
            rule = _Published.model_validate_json(text).rule()
        except ValidationError as error:
            log.warning("Redis holds no readable rule of tenant %s: %s", _shown(name), flaws(error))
            continue
        if NAME.fullmatch(name):
            rules[name] = rule
        else:
            log.warning("Redis holds a rule that counts for nobody. Tenant %s: %s", _shown(name), WANTED)
    return rules


def read_overrides(held: Mapping[str, str]) -> tuple[dict[str, TenantOverrides], tuple[str, ...]]:
    """Return what is set of tenants at run time, by name, and what of it cannot be understood.

    A field that cannot, as after a slip with redis-cli, has no effect; the others of the same tenant have.
    """
    found: dict[str, TenantOverrides] = {}
    problems = []
    for name, text in sorted(held.items()):
        if not NAME.fullmatch(name):
            problems.append(f"tenant {_shown(name)}: {WANTED}")
            continue
        overrides, flaws = _overrides(text)
        found[name] = overrides
        problems.extend(f"tenant {name}: {flaw}" for flaw in flaws)
    return found, tuple(problems)


def _overrides(text: str) -> tuple[TenantOverrides, list[str]]:
    try:
        return TenantOverrides.model_validate_json(text), []
    except ValidationError as error:
        flaws = [_flaw(each) for each in error.errors()]
        bad = {each["loc"][0] for each in error.errors() if each["loc"]}
    if not bad:  # it is no JSON object
        return TenantOverrides(), flaws
    fields = {name: value for name, value in json.loads(text).items() if name not in bad}
    return TenantOverrides.model_validate(fields), flaws


def flaws(error: ValidationError) -> str:
    """Return in one line what is wrong, and in which fields."""
    return "; ".join(_flaw(each) for each in error.errors())


def _flaw(detail: ErrorDetails) -> str:
    """Return what is wrong with an entry, and in which field."""
    place, message = place_of(detail["loc"]), told(detail)
    if detail["type"] == "extra_forbidden":
        return f"{place}: {message}"
    return f"{place}: {message}, got {_shown(detail['input'])}" if place else f"{message}: {_shown(detail['input'])}"


def _shown(value: object) -> str:
    return repr(value)[:_SHOWN_CHARACTERS]
