"""A job that waits for its lease, and the ways in which the wait ends."""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping

import msgspec

from router.policy.placement import ANYWHERE, Placement
from router.scheduling.left_behind import NOTICE_S, LeftBehind
from router.scheduling.messages import Adopted, Arrival, Reply, SharedRun, Wish


class NoRoom(Exception):
    """The job gets no lease; each subclass is a reason."""


class NoWorkers(NoRoom):
    """No worker may get jobs, or none can be reached."""


class Exhausted(NoRoom):
    """The job has tried every worker that may get jobs."""


class Unfunded(NoRoom):
    """The fleet's budget for retries is spent."""


class Quarantined(NoRoom):
    """The job breaks workers."""


class QueueFull(NoRoom):
    """As many jobs are pending as the queue takes."""


class TenantFull(NoRoom):
    """As many jobs of its tenant are pending as the tenant may have."""


class TooManyPools(NoRoom):
    """The job needs a pool of its own, and there are as many pools as there may be."""


class NoSuchLabel(NoRoom):
    """The job needs a label, a language or a combination of them that no worker of the fleet has."""

    def __init__(self, label: str, language: str = "") -> None:
        super().__init__(label, language)
        self.label = label
        self.language = language


class TooLarge(NoRoom):
    """The job takes more memory than any worker of its pool has."""

    def __init__(self, memory_mb: int, largest_mb: int) -> None:
        super().__init__(memory_mb, largest_mb)
        self.memory_mb = memory_mb
        self.largest_mb = largest_mb


class Unhedged(NoRoom):
    """The job runs already, and gets no second run: others wait, no worker has room, or the budget is spent."""


class QueueTimeout(NoRoom):
    """No worker had room in time."""


class RunsElsewhere(NoRoom):
    """An identical job has a run, or its answer is kept."""

    def __init__(self, shared: SharedRun) -> None:
        super().__init__(shared)
        self.shared = shared


class RunsAlready(NoRoom):
    """The job gets no lease because it has got a run of its own key that another client has left."""

    def __init__(self, adopted: Adopted) -> None:
        super().__init__(adopted)
        self.adopted = adopted


class ClientLeft(NoRoom):
    """The client hung up while its job was pending."""


def refusals(reply: Reply) -> Iterator[tuple[int, NoRoom]]:
    """Yield the number of each job that gets no lease by this reply, and why."""
    yield from ((number, QueueFull() if reply.routable else NoWorkers()) for number in reply.refused)
    yield from ((number, Exhausted()) for number in reply.exhausted)
    yield from ((number, Unfunded()) for number in reply.unfunded)
    yield from ((number, Quarantined()) for number in reply.quarantined)
    yield from ((number, TenantFull()) for number in reply.crowded)
    yield from ((number, TooManyPools()) for number in reply.unpooled)
    yield from ((shared.number, RunsElsewhere(shared)) for shared in reply.shared)
    yield from ((adopted.number, RunsAlready(adopted)) for adopted in reply.adopted if adopted.process)
    yield from ((number, Unhedged()) for number in reply.unhedged)


class Lease(msgspec.Struct, frozen=True):
    """The right to run one job on the worker at `url`. `ticket` is the job's place in the queue, for a retry.

    `is_adopted`: the job waited in a place that another job of its key had left.
    """

    number: int
    url: str
    ticket: int
    waited_ms: int
    placement: Placement = ANYWHERE
    is_adopted: bool = False


class PendingJob:
    """A job without a lease; `then` is called once, with the lease or the reason why there is none.

    `since` is the moment when the job asked, `job_since` when it came to the router; both by time.monotonic.
    `is_adopted` as in Lease.
    """

    __slots__ = (
        *("arrival", "has_left", "is_adopted", "job_since", "placement", "since", "then", "timer", "watch", "wish"),
    )

    def __init__(
        self,
        arrival: Arrival,
        since: float,
        job_since: float,
        has_left: Callable[[], Coroutine[None, None, None]],
        then: Callable[[Lease | NoRoom], None],
        placement: Placement = ANYWHERE,
        wish: Wish | None = None,
    ) -> None:
        self.arrival = arrival
        self.wish = wish
        self.placement = placement
        self.since = since
        self.job_since = job_since
        self.has_left = has_left
        self.then = then
        self.is_adopted = False
        # Set when the job stands in the queue, which most jobs never do.
        self.timer: asyncio.TimerHandle | None = None
        self.watch: asyncio.Task[None] | None = None

    def place(self, placement: Placement) -> None:
        """Let the job ask for other workers."""
        self.placement = placement
        where = {"pool": placement.pool, "memory_mb": placement.memory_mb}
        self.arrival = msgspec.structs.replace(self.arrival, **where)

    def start_waiting(self, stop: Callable[["PendingJob", NoRoom], None], left_behind: LeftBehind) -> None:
        """Have `stop` called when the wait has been too long, or the client has left."""
        loop = asyncio.get_running_loop()
        if left_behind.is_on:
            notice_at = self.since + self.arrival.wait_ms / 1000 - NOTICE_S
            self.timer = loop.call_at(notice_at, self._be_nearly_late, stop, left_behind)
        else:
            self._time_wait(stop)
        self.watch = loop.create_task(self.has_left())
        self.watch.add_done_callback(lambda watch: None if watch.cancelled() else stop(self, ClientLeft()))

    def _be_nearly_late(self, stop: Callable[["PendingJob", NoRoom], None], left_behind: LeftBehind) -> None:
        left_behind.expect()
        self._time_wait(stop)

    def _time_wait(self, stop: Callable[["PendingJob", NoRoom], None]) -> None:
        ends_at = self.since + self.arrival.wait_ms / 1000
        self.timer = asyncio.get_running_loop().call_at(ends_at, stop, self, QueueTimeout())

    def stop_waiting(self) -> None:
        """Cancel the timer and the watch over the client."""
        if self.timer:
            self.timer.cancel()
        if self.watch:
            self.watch.cancel()


def note_places(adopted: Iterable[Adopted], jobs: Mapping[int, PendingJob]) -> None:
    """Note in the jobs, by their numbers, that they wait in places that others have left."""
    for each in adopted:
        if not each.process and each.number in jobs:
            jobs[each.number].is_adopted = True
