"""Circuit breakers: a worker that fails job after job is ejected for a while, then tried with one job.

Closed, a breaker passes every job; open (the worker is ejected) it passes none; once its time is over it passes one,
fleet-wide, and that job's outcome closes it, or opens it for twice as long. Failures count in a row, because a worker
that still does jobs between them is worth more than none; and no more than a share of the fleet is ever ejected,
because the last workers of a bad day are all that is left. scheduler.lua decides alike.
"""

import math
from collections.abc import Callable, Container
from dataclasses import dataclass

from router.policy.verdict import Blame
from router.scheduling.messages import REST_MAX_MS, Ended, Rules

OPEN_TRIAL = "open"
# These say nothing of how well a worker does jobs.
_NO_FAILURES = (Blame.NONE, Blame.BUSY, Blame.DOUBT)


@dataclass(slots=True)
class Breaker:
    """The trouble that a worker has made. `times` ejected, 0: it is not; `until_ms` it is, or its trial may take.

    `cause` is that of the attempt which ejected it last.
    """

    failures: int = 0
    times: int = 0
    trial: str = ""
    last_error_of: str = ""
    cause: str = ""
    until_ms: float = math.inf


class Breakers:
    """The breakers of a fleet. Workers without trouble have none; `has_changed` says that who may get jobs has.

    `full_until` gives the moment at which a worker without room will have some; None where it has room.
    """

    def __init__(self, rules: Rules, full_until: Callable[[str], int | None]) -> None:
        self.by_url: dict[str, Breaker] = {}
        self.has_changed = False
        self._rules = rules
        self._full_until = full_until

    def is_ejected(self, url: str) -> bool:
        """Whether the worker is out, be it that a trial is open or under way."""
        return url in self.by_url and self.by_url[url].times > 0

    def ejected(self) -> dict[str, Breaker]:
        """Return the breakers of those who are out."""
        return {url: breaker for url, breaker in self.by_url.items() if breaker.times}

    def allows(self, url: str) -> bool:
        """Whether the worker may get a job: it is not ejected, or the next job is its trial."""
        return not self.is_ejected(url) or self.by_url[url].trial == OPEN_TRIAL

    def is_tried_by(self, url: str, name: str) -> bool:
        """Whether this lease is the worker's trial."""
        return url in self.by_url and self.by_url[url].trial == name

    def begin_trial(self, url: str, name: str, moment: int) -> None:
        """Make this lease the trial. Should nobody ever say how it went, the next one opens at `moment`."""
        breaker = self.by_url[url]
        breaker.trial, breaker.until_ms = name, moment

    def open_trials(self, now: int) -> None:
        """Let those whose time is over have one job."""
        for url, breaker in self.by_url.items():
            if breaker.until_ms <= now:
                self._open_trial(url, breaker)

    def forget_ejected_but(self, well: Container[str]) -> None:
        """Drop the ejections of all but these: who has left the fleet, or is out as unhealthy, comes back anew."""
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
                    return  # one bad job, sent again and again, is no bad worker
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
        elif blame is not Blame.DOUBT:  # then the word about this trial is still to come
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
        if (moment := self._full_until(url)) is not None:  # with what timed out there and still runs
            breaker.trial, breaker.until_ms = "", moment
            return
        breaker.trial, breaker.until_ms = OPEN_TRIAL, math.inf
        self.has_changed = True
