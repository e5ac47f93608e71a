"""Decides how long a worker rests that turns jobs away: because it says that it has no room, or cannot be reached.

The worker is not at fault: the job never ran there, and keeps its place in the queue.

A worker without room has all the jobs that it can take, so it gets another one when one of those ends. When its rest is
over it may get one more. If it accepts that one, its limit rises with each job done. If it turns that one away, the
next rest is twice as long. A worker that cannot be reached gets one job when its rest is over; if that job arrives, the
rest ends. lua/rests.lua decides alike.
"""

from collections.abc import Collection, Container
from dataclasses import dataclass

from router.scheduling.messages import REST_FIRST_MS, REST_MAX_MS, SILENCE_MS


@dataclass(slots=True)
class Rest:
    """A worker that may run `limit` jobs, and one more from `until_ms` on.

    `is_asked`: its rest is over, and `limit` has that one more job; if the worker has not turned it away by `until_ms`,
    it has accepted it. `rest_ms` is the length of its last rest; 0: it has done a job since. `silence_ms` after an
    attempt was sent the worker has accepted it.
    """

    limit: int
    until_ms: int
    is_asked: bool
    rest_ms: int
    is_away: bool
    silence_ms: int


class Rests:
    """The workers that rest, by URL.

    `look_at_ms` is the moment when the first of those that the present call was about has rested enough.
    """

    def __init__(self) -> None:
        self.by_url: dict[str, Rest] = {}
        self.look_at_ms: int | None = None

    @property
    def away(self) -> int:
        """How many workers rest because they cannot be reached."""
        return sum(rest.is_away for rest in self.by_url.values())

    def are_away(self, urls: Collection[str]) -> bool:
        """Whether all of these workers, and at least one, rest because they cannot be reached."""
        return bool(urls) and all(url in self.by_url and self.by_url[url].is_away for url in urls)

    def have_room(self, url: str, running: int) -> bool:
        """Whether the worker, which runs `running` jobs, may get one more as far as its rest goes."""
        rest = self.by_url.get(url)
        return rest is None or running < rest.limit

    def turn_away(self, url: str, running: int, now: int, *, is_away: bool, ms: int) -> None:
        """Take in that the worker, which runs `running` other jobs, has turned a job away; `ms` as in Ended."""
        before = self.by_url.get(url)
        if before is not None and not before.is_asked and before.is_away == is_away:
            rest_ms, until = before.rest_ms, before.until_ms  # this job was sent before the first was turned away
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
        """Let the worker, whose rest is over, get one more job; `is_wanted` says that jobs are pending."""
        rest = self.by_url[url]
        if rest.is_asked and (rest.is_away or (not is_wanted and running < rest.limit)):
            del self.by_url[url]
            return
        rest.limit = running + 1 if rest.is_away else rest.limit + 1
        rest.is_asked = True
        rest.until_ms = now + rest.silence_ms
        self._look_at(rest.until_ms)

    def forget_all_but(self, urls: Container[str]) -> None:
        """Drop the rests of all workers but these: the others get no jobs anyway."""
        self.by_url = {url: rest for url, rest in self.by_url.items() if url in urls}

    def _look_at(self, moment: int) -> None:
        self.look_at_ms = moment if self.look_at_ms is None else min(self.look_at_ms, moment)
