"""Decides which jobs' sizes count: those of tenants whose longest jobs go first, and those that are to be learned.

The dispatcher comes here only with jobs that name an option, while the longest jobs of some tenant go first, and if
jobs may have second runs.
"""

from router.http.response import Response
from router.jobs.job import Job, JobRun
from router.jobs.sooner.sizes import Sizes
from router.jobs.tenants import Tenants
from router.policy.verdict import hit_time_limit


class Sizing:
    """Says of each run what its job's size is for, and learns from its attempts.

    `learns_all`: it learns from all jobs.
    """

    def __init__(self, sizes: Sizes, tenants: Tenants, *, learns_all: bool = False) -> None:
        self._sizes = sizes
        self._tenants = tenants
        self._learns_all = learns_all

    def needs_kind(self, job: Job) -> bool:
        """Whether the scan of a large job must find which others are alike."""
        return self._learns_all or job.options.is_sized or self._tenants.goes_by_size(job.tenant)

    def settle(self, run: JobRun) -> bool:
        """Note what the job's size is for; return False if the size must be looked up before the job asks."""
        job, options = run.job, run.job.options
        goes_by_size = self._tenants.goes_by_size(job.tenant)
        run.is_sized = self._learns_all or goes_by_size or options.is_sized or options.size_key != ""
        if not goes_by_size:
            return True
        size_ms = self._sizes.expected_ms(job)
        if size_ms is None:
            return False
        run.wish_for(size_ms=size_ms)
        return True

    async def look_up(self, run: JobRun) -> None:
        """Look up the job's size."""
        await self._sizes.look_up([run.job])
        run.wish_for(size_ms=self._sizes.known_ms(run.job))

    def learn(self, run: JobRun, url: str, response: Response, took_s: float) -> None:
        """Learn how long the job took, unless its answer cannot be read."""
        if not response.head.is_packed:
            self._sizes.learn(run.job, url, int(took_s * 1000), is_cut=hit_time_limit(response.body))
