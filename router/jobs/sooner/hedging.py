"""Second runs: a job that runs on a slow worker, or for far longer than expected, gets one more run beside the first.

The first result counts. The other run goes on, as one does whose client has been told that it takes too long: it ends
its own lease, and says nothing against its worker unless it fails by the worker's fault. A run that fails while the
other goes on brings neither an answer nor a retry.

This process looks at its running jobs now and then. The scheduler grants a second run at once or not at all: only while
no job waits for the room, and within the budget of the whole fleet.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from functools import partial
from typing import NamedTuple

from router.aio import start
from router.fleet.snapshot import FleetView
from router.http.answer import Answer, close_rest
from router.http.response import Response, UpstreamFailed
from router.jobs.ending import Endings
from router.jobs.job import JobRun, SecondRun
from router.jobs.sooner.sizes import Sizes
from router.policy.hedging import LEAST_SAVING_MS, saving_ms
from router.policy.verdict import Blame, hit_time_limit
from router.scheduling.leases import Leases
from router.scheduling.messages import Wish
from router.scheduling.pending import Lease, NoRoom
from router.telemetry.recorder import Recorder
from router.upstream.pool import WorkerPool

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.1
# After a refusal this process asks for no second run for so long.
PAUSE_S = 0.25
_WISH = Wish(0, is_hedge=True)

Outcome = Response | UpstreamFailed


class AttemptSteps(NamedTuple):
    """Steps of the dispatcher: `attempted` hears how an attempt went, and `judged` returns its answer, if it has one.

    `await_no_more`: the job has its answer. `be_late` tells the client that its job takes too long.
    """

    attempted: Callable[[JobRun, Lease, float, Outcome], None]
    judged: Callable[[JobRun, Lease, float, Outcome], Answer | None]
    await_no_more: Callable[[JobRun], None]
    be_late: Callable[[JobRun], None]


class Hedging:
    """Gives second runs to `runs`, the jobs of this process without an answer.

    A lease is longer than its attempt by `margin_s`.
    """

    def __init__(
        self,
        runs: Collection[JobRun],
        endings: Endings,
        leases: Leases,
        upstream: WorkerPool,
        view: FleetView,
        sizes: Sizes,
        recorder: Recorder,
        steps: AttemptSteps,
        margin_s: float,
    ) -> None:
        self._runs = runs
        self._endings = endings
        self._leases = leases
        self._upstream = upstream
        self._view = view
        self._sizes = sizes
        self._recorder = recorder
        self._steps = steps
        self._margin_s = margin_s
        self._is_watching = False
        self._not_before = 0.0
        self._asking: set[asyncio.Task[None]] = set()  # for sizes

    def watch(self) -> None:
        """Look at the jobs from time to time until there are none."""
        if not self._is_watching:
            self._is_watching = True
            asyncio.get_running_loop().call_later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        self._is_watching = False
        try:
            now = time.monotonic()
            if now >= self._not_before and not self._all_room_is_wanted():
                self._consider(now)
        except Exception:
            log.exception("Jobs could not be looked at for second runs")
        finally:
            if self._runs:
                self.watch()

    def _all_room_is_wanted(self) -> bool:
        """Whether jobs wait that can use any room. With pools or limits of tenants, only the scheduler knows."""
        snapshot = self._view.snapshot
        return self._leases.others_wait and not (snapshot.places_jobs or snapshot.state.tenants)

    def _consider(self, now: float) -> None:
        """Ask for second runs of the jobs that are worth one; those that it saves most go first."""
        since = now - LEAST_SAVING_MS / 1000
        runs = [run for run in self._runs if run.is_awaited and run.began <= since and not run.has_second]
        unknown = [run for run in runs if run.second is None]
        if unknown and not self._asking:
            start(self._asking, self._look_up(unknown))
        worth = [(saved_ms, run) for run in runs if (saved_ms := self._saving_ms(run, now))]
        for _, run in sorted(worth, key=lambda each: -each[0]):
            self._ask(run)

    async def _look_up(self, runs: list[JobRun]) -> None:
        """Find out how long these jobs are expected to take."""
        await self._sizes.look_up([run.job for run in runs])
        for run in runs:
            run.second = run.second or SecondRun(self._sizes.found_ms(run.job))

    def _saving_ms(self, run: JobRun, now: float) -> float:
        if run.second is None or run.lease is None:
            return 0
        snapshot, url = self._view.snapshot, run.lease.url
        ran_ms = (now - run.began) * 1000
        return saving_ms(ran_ms, run.second.size_ms, snapshot.speed_of(url), is_slow=url in snapshot.slow)

    def _ask(self, run: JobRun) -> None:
        """Ask for a lease on a worker that is not slow, and that the job has not tried."""
        if run.second is None or run.lease is None:
            return
        run.second.first = run.lease
        tried = {run.lease.url, *run.tried, *self._view.snapshot.slow}
        asked = run.limits.bound_s + self._margin_s, 0.0, run.job.has_left, partial(self._leased, run, run.second)
        self._leases.ask(*asked, run.ticket, tuple(sorted(tried)), "", run.since, run.placement, _WISH)

    def _leased(self, run: JobRun, second: SecondRun, lease: Lease | NoRoom) -> None:
        """Begin the second run, unless the first is over by now."""
        first, second.first = second.first, None
        if not isinstance(lease, Lease):
            self._not_before = time.monotonic() + PAUSE_S
        elif run.deliver is None or run.lease is None or run.lease is not first:
            self._leases.end(lease, Blame.NONE)
        else:
            self._begin(run, second, lease)

    def _begin(self, run: JobRun, second: SecondRun, lease: Lease) -> None:
        now, bound_s = time.monotonic(), run.limits.bound_s
        request = run.request if run.hooks is None else run.hooks.attempt_begins(lease.url, run.request)
        if run.ends_at - now < bound_s <= run.ends_at - run.began:  # the first would have ended in time
            wait_s = max(0.0, run.ends_at - now)
            run.timer = asyncio.get_running_loop().call_later(wait_s, self._steps.be_late, run)
        self._upstream.send(lease.url, request, bound_s, partial(self._steps.attempted, run, lease, now))
        second.lease, second.attempt, second.is_beside = lease, len(run.failed) + 2, True
        self._recorder.hedged()

    def end_one_of_two(self, run: JobRun, second: SecondRun, lease: Lease, since: float, outcome: Outcome) -> None:
        """Go on when one of two attempts has ended: its answer is the job's. Without one, the other's will be."""
        first, run.lease = run.lease, lease
        second.is_doubtful = lease is first and self._is_doubtful(lease, outcome)
        try:
            answer = self._steps.judged(run, lease, since, outcome)
        except Exception:
            run.lease = first  # so that both leases are given back
            raise
        is_doubtful, second.is_doubtful = second.is_doubtful, False
        run.lease, second.is_beside = second.lease if lease is first else first, False
        if answer is None:
            return
        if run.deliver is None:
            close_rest(answer)
        elif is_doubtful and isinstance(outcome, Response):
            second.spare = outcome, lease.url, len(run.failed) + 1
        else:
            self._steps.await_no_more(run)
            run.late_share = run.job.share.hand_over()
            self._endings.end(run, answer)

    def _is_doubtful(self, lease: Lease, outcome: Outcome) -> bool:
        """Whether the first run hit a time limit on a slow worker, which the second run may keep.

        Then its answer counts only if the second run brings none, and until then no other job hears of it.
        """
        if isinstance(outcome, UpstreamFailed):
            return False
        return lease.url in self._view.snapshot.slow and outcome.rest is None and hit_time_limit(outcome.body)
