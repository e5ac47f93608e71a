"""Decides which jobs break workers. They are refused for a while, so that a client's retries do not break the fleet.

Each broken worker is evidence of 1, shared among the jobs that it ran: a job alone on it bears all, one of four jobs a
quarter. Two workers broken by one job alone convict it. Free stay its innocent neighbours, a job that is sent again and
again to one worker that is broken anyway, and a job that does well elsewhere.

Workers also die together, of a cause outside: a time limit, a node, an operator. So if one run of a job has outlived
other deaths of that job, they and its own death are one piece of evidence. And a death is little evidence if another
worker has just died under another job; then the jobs just convicted are let go, too. lua/quarantine.lua judges alike.
"""

from router.scheduling.messages import BROKEN_WITHIN_MS, DEATHS_LOOKED_AT, ENOUGH_EVIDENCE, OUTAGE_SHARE, Rules


class Quarantine:
    """The evidence against jobs; a job is named by the hash of its request, as `Arrival.retry_of`."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._until: dict[str, int] = {}
        self._evidence: dict[str, tuple[dict[str, tuple[float, int]], int]] = {}  # by worker; and until when it counts
        self._broken: dict[str, dict[str, int]] = {}  # worker → lease → when its connection died
        self._deaths: dict[tuple[str, str], int] = {}  # job, worker → when it last died

    def holds(self, job: str, now: int) -> bool:
        """Whether the job is to be refused at the moment `now` (ms)."""
        return self._until.get(job, 0) > now

    def held(self, now: int) -> set[str]:
        """Return all jobs that are to be refused at the moment `now` (ms)."""
        return {job for job in self._until if self.holds(job, now)}

    def hear_of_death(self, job: str, url: str, name: str, others: int, now: int, ran_ms: int = 0) -> None:
        """Take in that the connection died on which `job` ran under the lease `name`, `ran_ms` after it had begun.

        `others` counts the jobs that run on the worker still.
        """
        broken = {its: at for its, at in self._broken.get(url, {}).items() if now - at < BROKEN_WITHIN_MS}
        broken[name] = now
        self._broken[url] = broken
        is_outage = self._hear_of_outage(job, url, now)
        evidence, counts_until = self._evidence.get(job, ({}, 0))
        evidence = evidence if counts_until > now else {}
        share = float(f"{1 / (others + len(broken)) * (OUTAGE_SHARE if is_outage else 1):.3f}")
        kept = {}
        for its, (held, at) in evidence.items():
            if its == url or at > now - ran_ms:  # of one cause with this death
                share = max(share, held)
            else:
                kept[its] = held, at
        kept[url] = share, now
        self._evidence[job] = (kept, now + self._rules.quarantine_ms)
        if sum(share for share, _ in kept.values()) >= ENOUGH_EVIDENCE:
            self._until[job] = now + self._rules.quarantine_ms
        else:
            self._until.pop(job, None)

    def exonerate(self, job: str) -> None:
        """Drop what is held against a job that has been done well."""
        self._evidence.pop(job, None)
        self._until.pop(job, None)

    def _hear_of_outage(self, job: str, url: str, now: int) -> bool:
        """Return whether another worker has just died under another job. If so, let go of the jobs just convicted."""
        self._deaths = {death: at for death, at in self._deaths.items() if now - at < BROKEN_WITHIN_MS}
        self._deaths[job, url] = now
        latest = sorted(self._deaths, key=lambda death: (self._deaths[death], " ".join(death)), reverse=True)
        if not any(its != job and at_url != url for its, at_url in latest[:DEATHS_LOOKED_AT]):
            return False
        lately = now - BROKEN_WITHIN_MS + self._rules.quarantine_ms
        self._until = {its: until for its, until in self._until.items() if until <= lately}
        return True
