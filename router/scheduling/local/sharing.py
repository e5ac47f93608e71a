"""Decides which arriving jobs get what others have left behind whose clients have gone: a place in the line, or a run.

An orphan waits for the next job of its key. lua/sharing.lua decides alike.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

import msgspec

from router.scheduling.messages import Adopted, Arrival, Orphan, Wish

# More than are added at once, so that they become fewer.
_DROPPED_AT_ONCE = 4
# Until when it is kept, and the run as `process:number`; "" for a place.
_Kept = tuple[int, str]


class Orphans:
    """The orphans by key, and until when (ms) arrivals are to have keys."""

    def __init__(self) -> None:
        self.keyed_until = 0
        self._by_key: dict[str, dict[tuple[int, str], _Kept]] = {}  # in the order of the script's members

    def expect(self, ms: int, now: int) -> None:
        """Ask for keys for so long."""
        self.keyed_until = max(self.keyed_until, now + ms)

    def keep(self, process: str, orphan: Orphan, now: int) -> None:
        """Keep what a job has left behind, as `process` tells; or drop it, if its time is 0."""
        self._drop_oldest(now)
        kept = self._by_key.setdefault(orphan.key, {})
        owner = f"{orphan.process or process}:{orphan.number}" if orphan.number else ""
        if not orphan.ms:
            self._by_key[orphan.key] = {place: held for place, held in kept.items() if held[1] != owner}
            return
        until = now + orphan.ms
        kept[orphan.ticket, f"{until} {orphan.ticket} {owner}".rstrip()] = until, owner
        self.expect(orphan.ms, now)

    def _drop_oldest(self, now: int) -> None:
        """Forget the oldest keys of which nothing is kept any more."""
        for key in list(islice(self._by_key, _DROPPED_AT_ONCE)):
            if any(until > now for until, _ in self._by_key[key].values()):
                return
            del self._by_key[key]

    def adopt(self, wishes: Sequence[Wish], number: int, now: int, is_alive: Callable[[str], bool]) -> Adopted | None:
        """Return what the arriving job gets of another one; None if there is nothing. Dead processes have no runs."""
        key = next((wish.key for wish in wishes if wish.number == number and not wish.reuse_ms), "")
        kept = self._by_key.get(key, {}) if key else {}
        while kept:
            place = min(kept)
            until, owner = kept.pop(place)
            process, _, run = owner.rpartition(":")
            if until <= now:
                continue
            if not owner:
                return Adopted(number, place[0])
            if is_alive(process):
                return Adopted(number, place[0], process, int(run))
        return None

    def share(
        self,
        wishes: tuple[Wish, ...],
        arrivals: Sequence[Arrival],
        ticket: int,
        now: int,
        is_alive: Callable[[str], bool],
        adopted: list[Adopted],
    ) -> Iterator[tuple[Arrival, int]]:
        """Yield the jobs that ask for a lease, with their tickets, new ones from `ticket` on.

        What those get that others have left behind is added to `adopted`. Those that get a run need no lease; those
        that get a place have its ticket, as if they came again.
        """
        for arrival in arrivals:
            if arrival.ticket:
                yield arrival, arrival.ticket
                continue
            got = self.adopt(wishes, arrival.number, now, is_alive)
            if got is not None:
                adopted.append(got)
            if got is None:
                yield arrival, ticket
            elif not got.process:
                yield msgspec.structs.replace(arrival, ticket=got.ticket), got.ticket
            ticket += 1


def tickets_for(arrivals: Sequence[Arrival], counter: int) -> tuple[int, int]:
    """Return the first of the new tickets for those arrivals that have none, and the counter after the last one.

    After Redis has lost its memory the counter goes on above the tickets in hand.

    >>> tickets_for([Arrival(1, 10, 10), Arrival(2, 10, 10)], 7), tickets_for([Arrival(1, 10, 10, ticket=9)], 7)
    ((8, 9), (10, 9))
    """
    newest = max((arrival.ticket for arrival in arrivals), default=0)
    count = sum(arrival.ticket == 0 for arrival in arrivals)
    first = newest + 1 if newest > counter + count else counter + 1
    return first, first + count - 1
