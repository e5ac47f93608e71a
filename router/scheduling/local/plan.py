"""Decides which workers may get jobs, with which cap, and in which order a ticket asks them.

lua/plan.lua makes the same plan, and lua/selection.lua has the same order.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from router.fleet.model import Health, Member
from router.policy.strategy import Strategy, start
from router.scheduling.local.breaker import Breakers
from router.scheduling.local.pools import Room
from router.scheduling.local.ring import rings
from router.scheduling.messages import BEHIND, TRIAL, Rules


@dataclass(frozen=True, slots=True)
class Planned:
    """A worker that may get jobs; `cap` 0 is no cap, and TRIAL one job fleet-wide."""

    cap: int
    weight: int


class Plan:
    """The workers that may get jobs, `by_url` and as a ring; the ring of the `slow` ones is `behind`.

    `well` are those that may get jobs because they are healthy. The plan is made anew when the fleet or an ejection
    changes.
    """

    def __init__(self, rules: Rules, breakers: Breakers) -> None:
        self.fleet: dict[str, Member] = {}
        self.by_url: dict[str, Planned] = {}
        self.ring: tuple[str, ...] = ()
        self.behind: tuple[str, ...] = ()
        self.slow: frozenset[str] = frozenset()
        self.well: frozenset[str] = frozenset()
        self._rules = rules
        self._breakers = breakers
        self._is_stale = True

    def set_fleet(self, members: Iterable[Member]) -> None:
        """Take over the workers of the fleet, and their conditions."""
        self.fleet = {member.worker.url: member for member in members}
        self._is_stale = True

    def expire(self) -> None:
        """Have the plan made anew."""
        self._is_stale = True

    def make_if_stale(self) -> bool:
        """Choose the workers that may get jobs, and lay the ring; return whether the plan was stale."""
        if not (self._is_stale or self._breakers.has_changed):
            return False
        self._is_stale = self._breakers.has_changed = False
        unhealthy = {url for url, member in self.fleet.items() if member.health is Health.UNHEALTHY}
        self._breakers.forget_ejected_but(self.fleet.keys() - unhealthy)
        healthy = self._candidates(Health.HEALTHY)
        chosen = healthy or self._candidates(Health.UNKNOWN)
        self.well = frozenset(member.worker.url for member in healthy)
        self.slow = frozenset(member.worker.url for member in chosen if member.is_slower(self._rules.slower_than))
        self.ring, self.behind = rings([member.worker for member in chosen], self.slow)
        self.by_url = {member.worker.url: self._planned(member) for member in chosen}
        return True

    def in_order(
        self, ticket: int, seed: int, load: Callable[[str], float | None], room: Room | None = None, turn: int = 0
    ) -> Iterator[str]:
        """Yield the URLs in the order in which this ticket asks the workers for room.

        In a `room` of its own `turn` is the turn of round robin. `load` gives a worker's leases divided by its weight,
        and None if it has no room; only `least_loaded` needs it.
        """
        room, turn = (Room(tuple(self.by_url), self.ring, self.behind), ticket) if room is None else (room, turn)
        turn = turn if self._rules.strategy is Strategy.ROUND_ROBIN else ticket
        for ring in filter(None, (room.ring, room.behind)):
            place = start(self._rules.strategy, turn, seed, len(ring))
            if place is None:
                yield from self._by_load(room, ticket, load)
                return
            yield from ring[place:]
            yield from ring[:place]

    def _planned(self, member: Member) -> Planned:
        is_trial = self._breakers.is_ejected(member.worker.url)
        return Planned(TRIAL if is_trial else member.cap, member.worker.weight)

    def _candidates(self, health: Health) -> list[Member]:
        return [
            member
            for url, member in sorted(self.fleet.items())
            if member.health is health and not member.is_draining and self._breakers.allows(url)
        ]

    def out(self) -> dict[str, bool]:
        """Return of all workers that are not drained whether they are unhealthy or ejected."""
        return {
            url: member.health is Health.UNHEALTHY or self._breakers.is_ejected(url)
            for url, member in self.fleet.items()
            if not member.is_draining
        }

    def _by_load(self, room: Room, ticket: int, load: Callable[[str], float | None]) -> Iterator[str]:
        by_load: dict[float, list[tuple[str, str]]] = {}
        for url in room.urls:
            planned = self.by_url[url]
            if (its := load(url)) is not None:
                # The script orders ties by its members' text, which begins with cap and weight.
                its += BEHIND if url in room.behind else 0
                by_load.setdefault(its, []).append((f"0 {planned.cap} {planned.weight} {url}", url))
        for _, ties in sorted(by_load.items()):
            ties.sort()
            first = ticket % len(ties)
            yield from (url for _, url in ties[first:] + ties[:first])
