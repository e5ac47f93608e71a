"""Which jobs break workers. Such a job is refused for a while, or its client's retries take worker after worker down.

Each broken worker is evidence of 1, shared among the jobs that it ran: a job alone on it bears all, one of four a
quarter. So two workers broken by it alone convict a job, and innocent neighbours stay free, as does a job that is sent
again and again to one worker that is broken anyway, and one that does well elsewhere.

Workers also die together, of a cause outside: a time limit, a node, an operator. So the deaths that one run of a job
has outlived are one piece of evidence with its own, and a death is little evidence where another worker has just died
under another job; then those just convicted are let go, too. scheduler.lua judges alike.
"""

from router.scheduling.messages import BROKEN_WITHIN_MS, DEATHS_LOOKED_AT, ENOUGH_EVIDENCE, OUTAGE_SHARE, Rules


class Quarantine:
    """The evidence against jobs, each named by the hash of what it sent."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._until: dict[str, int] = {}
        self._evidence: dict[str, tuple[dict[str, tuple[float, int]], int]] = {}  # by worker; and until when it counts
        self._broken: dict[str, dict[str, int]] = {}  # worker → lease → when its connection died
        self._deaths: dict[tuple[str, str], int] = {}  # job, worker → when it last died

    def holds(self, job: str, now: int) -> bool:
        """Whether the job is to be refused."""
        return self._until.get(job, 0) > now

    def held(self, now: int) -> set[str]:
        """Return all that are to be refused."""
        return {job for job in self._until if self.holds(job, now)}

    def hear_of_death(self, job: str, url: str, name: str, others: int, now: int, ran_ms: int = 0) -> None:
        """Take in that the connection died on which `job` ran under the lease `name`, beside `others` on the worker.

        It had run for `ran_ms`.
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
            if its == url or at > now - ran_ms:  # one cause, and one piece of evidence
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
        """Forget what was held against a job that has been done well."""
        self._evidence.pop(job, None)
        self._until.pop(job, None)

    def _hear_of_outage(self, job: str, url: str, now: int) -> bool:
        """Return whether another worker has just died under another job; then let go of those just convicted."""
        self._deaths = {death: at for death, at in self._deaths.items() if now - at < BROKEN_WITHIN_MS}
        self._deaths[job, url] = now
        latest = sorted(self._deaths, key=lambda death: (self._deaths[death], " ".join(death)), reverse=True)
        if not any(its != job and at_url != url for its, at_url in latest[:DEATHS_LOOKED_AT]):
            return False
        lately = now - BROKEN_WITHIN_MS + self._rules.quarantine_ms
        self._until = {its: until for its, until in self._until.items() if until <= lately}
        return True
