"""Which of a call's arrivals are second runs of jobs that run already. lua/hedges.lua puts the same ones aside."""

from router.scheduling.local.order import Waiting
from router.scheduling.messages import Call


def hedges_of(call: Call, now: int) -> dict[int, Waiting]:
    """Return the call's second runs by their numbers, as jobs that do not wait."""
    numbers = {wish.number for wish in call.wishes if wish.is_hedge}
    return {
        each.number: Waiting.of(each, call.process, each.ticket, now) for each in call.arrived if each.number in numbers
    }
