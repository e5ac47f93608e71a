"""Which of a call's arrivals are second runs of jobs that run already. lua/hedges.lua puts the same ones aside."""

from router.policy.tenants import DEFAULT
from router.scheduling.local.order import Waiting
from router.scheduling.messages import Call, lease_name


def hedges_of(call: Call, now: int) -> dict[int, Waiting]:
    """Return the call's second runs by their numbers, as jobs that do not wait."""
    numbers = {wish.number for wish in call.wishes if wish.is_hedge}
    return {
        each.number: Waiting(
            *(each.ticket, lease_name(call.process, each.number), each.bound_ms, now, now),
            *(each.tried, (each.tenant or DEFAULT, each.pool), each.memory_mb),
        )
        for each in call.arrived
        if each.number in numbers
    }
