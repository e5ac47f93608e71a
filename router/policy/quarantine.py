"""Which jobs break workers. Such a job is refused for a while, or its client's retries take worker after worker down.

Each broken worker is evidence of 1, shared among the jobs that it ran: a job alone on it bears all, one of four a
quarter. So two workers broken by it alone convict a job, and innocent neighbours stay free, as does a job that is sent
again and again to one worker that is broken anyway, and one that does well elsewhere. exchange.lua judges alike.
"""

from router.fleet.exchange import BROKEN_WITHIN_MS, ENOUGH_EVIDENCE, Rules


class Quarantine:
    """The evidence against jobs, each named by the hash of what it sent."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._until: dict[str, int] = {}
        self._evidence: dict[str, tuple[dict[str, float], int]] = {}  # by worker; and until when it counts
        self._broken: dict[str, dict[str, int]] = {}  # worker → lease → when its connection died

    def holds(self, job: str, now: int) -> bool:
        """Whether the job is to be refused."""
        return self._until.get(job, 0) > now

    def held(self, now: int) -> set[str]:
        """Return all that are to be refused."""
        return {job for job in self._until if self.holds(job, now)}

    def hear_of_death(self, job: str, url: str, name: str, others: int, now: int) -> None:
        """Take in that the connection died on which `job` ran under the lease `name`, beside `others` on the worker."""
        broken = {its: at for its, at in self._broken.get(url, {}).items() if now - at < BROKEN_WITHIN_MS}
        broken[name] = now
        self._broken[url] = broken
        evidence, counts_until = self._evidence.get(job, ({}, 0))
        evidence = evidence if counts_until > now else {}
        evidence[url] = max(evidence.get(url, 0.0), float(f"{1 / (others + len(broken)):.3f}"))
        self._evidence[job] = (evidence, now + self._rules.quarantine_ms)
        if sum(evidence.values()) >= ENOUGH_EVIDENCE:
            self._until[job] = now + self._rules.quarantine_ms

    def exonerate(self, job: str) -> None:
        """Forget what was held against a job that has been done well."""
        self._evidence.pop(job, None)
        self._until.pop(job, None)
