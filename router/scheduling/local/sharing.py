"""Decides which arriving jobs get what others have left behind whose clients have gone: a place in the line, or a run.

An orphan waits for the next job of its key. lua/sharing.lua decides alike.
"""

from collections.abc import Callable, Sequence

from router.scheduling.messages import Adopted, Orphan, Wish

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
        """Keep what a job has left behind; or drop it, if its time is 0."""
        kept = self._by_key.setdefault(orphan.key, {})
        owner = f"{process}:{orphan.number}" if orphan.number else ""
        if not orphan.ms:
            self._by_key[orphan.key] = {place: held for place, held in kept.items() if held[1] != owner}
            return
        until = now + orphan.ms
        kept[orphan.ticket, f"{until} {orphan.ticket} {owner}".rstrip()] = until, owner
        self.expect(orphan.ms, now)

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
