"""Workers that turn jobs away: those that say that they have no room, and those that cannot be reached.

Such a worker is not at fault: the job never ran there, and it waits in the line as before. A worker without room has
all the jobs that it can take, so it gets another one when one of those ends. When its rest is over it may get one
more: where it takes that, its limit goes up with each job done; where it turns that away, its next rest is twice as
long. A worker that cannot be reached gets one job when its rest is over; once that has arrived, all is as before.
scheduler.lua decides alike.
"""

from collections.abc import Container
from dataclasses import dataclass

from router.scheduling.messages import REST_FIRST_MS, REST_MAX_MS, SILENCE_MS


@dataclass(slots=True)
class Rest:
    """A worker that may run `limit` jobs, one more from `until_ms` on.

    `is_asked`: it has had its rest, and may have that job; by `until_ms` it will have taken it. `rest_ms` is how long
    it has rested the last time; 0: it has done a job since. An attempt there has been taken after `silence_ms`.
    """

    limit: int
    until_ms: int
    is_asked: bool
    rest_ms: int
    is_away: bool
    silence_ms: int


class Rests:
    """The workers that rest. `look_at_ms`: when the first of those that this call was about has rested enough."""

    def __init__(self) -> None:
        self.by_url: dict[str, Rest] = {}
        self.look_at_ms: int | None = None

    @property
    def away(self) -> int:
        """How many workers cannot be reached."""
        return sum(rest.is_away for rest in self.by_url.values())

    def have_room(self, url: str, running: int) -> bool:
        """Whether the worker takes one more job, as far as it has said."""
        rest = self.by_url.get(url)
        return rest is None or running < rest.limit

    def turn_away(self, url: str, running: int, now: int, *, is_away: bool, ms: int) -> None:
        """Take in that the worker, which runs so many others, has turned a job away; `ms` as in Ended."""
        before = self.by_url.get(url)
        if before is not None and not before.is_asked and before.is_away == is_away:
            rest_ms, until = before.rest_ms, before.until_ms  # sent before it had turned the first one away
        else:
            rest_ms = max(REST_FIRST_MS, min(2 * before.rest_ms, REST_MAX_MS)) if before else REST_FIRST_MS
            until = now + rest_ms
        if is_away:
            rest = Rest(0, until, False, rest_ms, is_away, SILENCE_MS + 2 * ms)
        else:
            rest = Rest(running, max(until, now + ms), False, rest_ms, is_away, SILENCE_MS)
        self.by_url[url] = rest
        self._look_at(rest.until_ms)

    def hear_of_answer(self, url: str) -> None:
        """Take in that the worker has answered a job."""
        rest = self.by_url.get(url)
        if rest is None or not rest.is_asked:
            return
        if rest.is_away:
            del self.by_url[url]
        else:
            rest.limit += 1
            rest.rest_ms = 0

    def pass_by(self, url: str, running: int, now: int, *, is_wanted: bool) -> None:
        """Let the worker, whose rest is over, get one more job; `is_wanted`: jobs wait."""
        rest = self.by_url[url]
        if rest.is_asked and (rest.is_away or (not is_wanted and running < rest.limit)):
            del self.by_url[url]
            return
        rest.limit = running + 1 if rest.is_away else rest.limit + 1
        rest.is_asked = True
        rest.until_ms = now + rest.silence_ms
        self._look_at(rest.until_ms)

    def forget_all_but(self, urls: Container[str]) -> None:
        """Drop those who get no jobs anyway."""
        self.by_url = {url: rest for url, rest in self.by_url.items() if url in urls}

    def _look_at(self, moment: int) -> None:
        self.look_at_ms = moment if self.look_at_ms is None else min(self.look_at_ms, moment)
