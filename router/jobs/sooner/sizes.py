"""How long jobs take on a worker of normal speed: as their clients say, or as earlier jobs of the same key took."""

from collections.abc import Sequence

from router.jobs.job import Job


class Sizes:
    """The sizes of jobs, as far as this process knows them."""

    def expected_ms(self, job: Job) -> int | None:
        """Return how long the job is expected to take, at least 1; None if that must be looked up first.

        A job of which nothing is known counts as its tenant's median.
        """
        return job.options.expected_ms or None

    async def look_up(self, jobs: Sequence[Job]) -> None:
        """Fetch what `expected_ms` does not know of these jobs, in one round trip."""

    def learn(self, job: Job, worker_url: str, took_ms: int) -> None:
        """Take in that an attempt of the job, which brought a result, took so long."""
