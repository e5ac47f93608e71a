"""Circuit breakers: a worker that fails job after job is ejected for a while, then tried with one job.

A closed breaker passes every job. An open one passes none: its worker is ejected. When its time is over it passes one
job, fleet-wide: the trial. The trial's outcome closes the breaker, or opens it for twice as long.

Only failures in a row count: a worker that does some jobs well between them is better than none. No more than a share
of the fleet is ejected at once: on a bad day the other workers are all that is left. lua/breaker.lua decides alike.
"""

import math
from collections.abc import Callable, Container
from dataclasses import dataclass

from router.policy.verdict import Blame
from router.scheduling.messages import REST_MAX_MS, Ended, Rules

OPEN_TRIAL = "open"
# These say nothing of how well the worker does jobs.
_NO_FAILURES = (Blame.NONE, Blame.BUSY, Blame.DOUBT)


@dataclass(slots=True)
class Breaker:
    """What is held against one worker: `failures` in a row, and how many `times` it has been ejected since it did well.

    While `times` is above 0 the worker is ejected. `trial` is then the name of the lease that tries it, OPEN_TRIAL if
    the next job may, or "" until `until_ms`. During a trial that is the moment at which the next one opens if this one
    is never reported. `last_error_of` names the last job with a sandbox error; `cause` says why the worker was ejected.
    """

    failures: int = 0
    times: int = 0
    trial: str = ""
    last_error_of: str = ""
    cause: str = ""
    until_ms: float = math.inf


class Breakers:
    """The breakers of a fleet, by URL. A worker without failures has none.

    `has_changed` is set when the workers that may get jobs are other ones; the plan resets it. `full_until` gives the
    moment (ms) at which a full worker will have room, and None for a worker that has room.
    """

    def __init__(self, rules: Rules, full_until: Callable[[str], int | None]) -> None:
        self.by_url: dict[str, Breaker] = {}
        self.has_changed = False
        self._rules = rules
        self._full_until = full_until

    def is_ejected(self, url: str) -> bool:
        """Whether the worker is ejected; it still is while its trial is open or under way."""
        return url in self.by_url and self.by_url[url].times > 0

    def ejected(self) -> dict[str, Breaker]:
        """Return the breakers of the ejected workers."""
        return {url: breaker for url, breaker in self.by_url.items() if breaker.times}

    def allows(self, url: str) -> bool:
        """Whether the worker may get a job: it is not ejected, or the next job is its trial."""
        return not self.is_ejected(url) or self.by_url[url].trial == OPEN_TRIAL

    def is_tried_by(self, url: str, name: str) -> bool:
        """Whether this lease is the worker's trial."""
        return url in self.by_url and self.by_url[url].trial == name

    def begin_trial(self, url: str, name: str, moment: int) -> None:
        """Make this lease the trial. If no process ever reports it, the next trial opens at `moment`."""
        breaker = self.by_url[url]
        breaker.trial, breaker.until_ms = name, moment

    def open_trials(self, now: int) -> None:
        """Let each worker whose time is over have one job."""
        for url, breaker in self.by_url.items():
            if breaker.until_ms <= now:
                self._open_trial(url, breaker)

    def forget_ejected_but(self, well: Container[str]) -> None:
        """Drop the ejections of all workers but these: one that left the fleet, or is unhealthy, comes back anew."""
        self.by_url = {url: breaker for url, breaker in self.by_url.items() if url in well or not self.is_ejected(url)}

    def judge(self, ended: Ended, name: str, now: int, fleet_size: int) -> None:
        """Take in what the attempt under the lease `name` says of its worker."""
        url, blame = ended.url, ended.blame
        breaker = self.by_url.get(url)
        if breaker and breaker.trial == name:
            self._judge_trial(breaker, ended, now)
        elif breaker and breaker.times:
            return  # ejected: what ran there before says nothing new
        elif blame is Blame.OK:
            self.by_url.pop(url, None)
        elif blame not in _NO_FAILURES:
            breaker = self.by_url.setdefault(url, Breaker())
            if blame is Blame.ERROR:
                if breaker.last_error_of == ended.job:
                    return  # one bad job, sent again and again, does not make a bad worker
                breaker.last_error_of = ended.job
            breaker.failures += 1
            if breaker.failures >= self._rules.failures and self._may_eject_another(fleet_size):
                self._eject(breaker, now, ended.cause)

    def _judge_trial(self, breaker: Breaker, ended: Ended, now: int) -> None:
        url, blame = ended.url, ended.blame
        if blame is Blame.OK:
            del self.by_url[url]
            self.has_changed = True
        elif blame is Blame.NONE:
            self._open_trial(url, breaker)
        elif blame is Blame.BUSY:
            breaker.trial, breaker.until_ms = "", now + max(ended.ms, REST_MAX_MS)
        elif blame is not Blame.DOUBT:  # after a doubt the same lease is judged once more, when more is known
            self._eject(breaker, now, ended.cause)

    def _may_eject_another(self, fleet_size: int) -> bool:
        ejected = sum(self.is_ejected(url) for url in self.by_url)
        return (ejected + 1) * 100 <= self._rules.max_ejected_percent * fleet_size

    def _eject(self, breaker: Breaker, now: int, cause: str) -> None:
        breaker.times += 1
        breaker.cause = cause
        breaker.trial = ""
        breaker.until_ms = now + min(self._rules.base_ms * 2 ** (breaker.times - 1), self._rules.max_ms)
        self.has_changed = True

    def _open_trial(self, url: str, breaker: Breaker) -> None:
        # Jobs that timed out there may still run. If they fill the worker, its trial waits for the first lease to pass.
        if (moment := self._full_until(url)) is not None:
            breaker.trial, breaker.until_ms = "", moment
            return
        breaker.trial, breaker.until_ms = OPEN_TRIAL, math.inf
        self.has_changed = True
